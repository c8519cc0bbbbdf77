"""A student measured beside its teacher: retrieval, zero-shot classification, size and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effcli.core.evidence.figures import save_figure
from effcli.core.run import Figures, Run
from effcli.core.runtime import Runtime
from effcli.distill.clip.clip_model import ClipModel
from effcli.distill.clip.embedding import embed_images, embed_texts, encode_images, in_batches
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.inputs import ClipInputs
from effcli.distill.clip_kd.recipe import ClipEvalSection
from effcli.distill.clip_kd.retrieval import cka, recalls

N_QUERIES, N_NEAREST = 8, 5


def measure(
    model: ClipModel,
    pairs: CaptionSet,
    zero_shot: CaptionSet | None,
    settings: ClipEvalSection,
    runtime: Runtime,
    check_stop: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """One model's figures, and its unit embeddings of the pairs: ``images`` and ``texts`` (all captions)."""
    model.network.to(runtime.device).eval()
    size = settings.batch_size
    texts, first = pairs.texts()
    embedded = {
        "images": in_batches(
            lambda rows: embed_images(model, pairs, rows, runtime), len(pairs), size, check_stop
        ),
        "texts": in_batches(
            lambda rows: embed_texts(model, texts[rows[0] : rows[-1] + 1], runtime),
            len(texts),
            size,
            check_stop,
        ),
    }
    owners = torch.repeat_interleave(torch.arange(len(pairs)), torch.from_numpy(first).diff())
    used = torch.from_numpy(first[:-1]) if settings.captions == "first" else torch.arange(len(texts))
    figures: dict[str, Any] = recalls(embedded["images"], embedded["texts"][used], owners[used])
    if zero_shot is not None:
        images = embedded["images"]
        if zero_shot is not pairs:
            images = in_batches(
                lambda rows: embed_images(model, zero_shot, rows, runtime), len(zero_shot), size, check_stop
            )
        figures |= zero_shot_accuracy(model, images, zero_shot, settings, runtime)
    return {**figures, **size_and_speed(model, runtime)}, embedded


def zero_shot_accuracy(
    model: ClipModel, images: Tensor, classes: CaptionSet, settings: ClipEvalSection, runtime: Runtime
) -> dict[str, float]:
    """Top-1 and top-5 accuracy, and the mean of the classes' top-1, 0..1."""
    import open_clip

    shipped = {
        "openai": open_clip.OPENAI_IMAGENET_TEMPLATES,
        "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES,
    }
    shipped["auto"] = list(classes.class_templates)
    templates = shipped[settings.templates] if isinstance(settings.templates, str) else settings.templates
    weights = open_clip.build_zero_shot_classifier(
        model.network, model.tokenize, classes.classes, templates, device=runtime.device
    )
    labels = torch.tensor(classes.labels)
    k = min(5, len(classes.classes))
    best = (images @ weights.float().cpu()).topk(k, dim=1).indices
    right = best[:, 0] == labels
    by_class = [right[labels == c].float().mean() for c in labels.unique()]
    return {
        "zero_shot_top1": float(right.float().mean()),
        "zero_shot_top5": float((best == labels[:, None]).any(1).float().mean()),
        "zero_shot_mean_per_class": float(torch.stack(by_class).mean()),
    }


def size_and_speed(model: ClipModel, runtime: Runtime) -> dict[str, float]:
    """Parameters (with word embeddings, which are most of a small model), MACs, and images per second."""
    from torch.utils.flop_counter import FlopCounterMode

    network: Any = model.network
    image = torch.zeros(1, 3, *model.preprocess.size, device=runtime.device)
    tokens = model.tokenize(["a"]).to(runtime.device)
    with torch.no_grad(), FlopCounterMode(display=False) as images_counter:
        network.encode_image(image)
    with torch.no_grad(), FlopCounterMode(display=False) as texts_counter:
        network.encode_text(tokens)
    batch = image.expand(16, -1, -1, -1).contiguous()
    encode_images(model, batch, runtime)
    started = time.perf_counter()
    encode_images(model, batch, runtime)
    seconds = time.perf_counter() - started
    n_all = sum(p.numel() for p in network.parameters())
    n_image = sum(p.numel() for p in network.visual.parameters())
    return {
        "parameters": n_all,
        "image_parameters": n_image,
        "text_parameters": n_all - n_image,
        "image_macs": images_counter.get_total_flops() // 2,
        "text_macs": texts_counter.get_total_flops() // 2,
        "images_per_s": round(len(batch) / seconds, 1),
    }


def compare(
    models: Mapping[str, ClipModel],
    pairs: CaptionSet,
    zero_shot: CaptionSet | None,
    settings: ClipEvalSection,
    runtime: Runtime,
    check_stop: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The figures of teacher and student by name, the CKA of their embeddings, and the embeddings."""
    metrics: dict[str, Any] = {}
    embedded = {}
    for name, model in models.items():
        metrics[name], embedded[name] = measure(model, pairs, zero_shot, settings, runtime, check_stop)
    if {"student", "teacher"} <= embedded.keys():
        ours, theirs = embedded["student"], embedded["teacher"]
        metrics |= {f"cka_{kind}": cka(ours[kind], theirs[kind]) for kind in ("images", "texts")}
    metrics |= {"eval_images": len(pairs), "captions": settings.captions}
    if zero_shot is not None:
        metrics |= {"zero_shot_images": len(zero_shot), "zero_shot_classes": len(zero_shot.classes)}
    return metrics, embedded


def compare_for_report(
    models: Mapping[str, ClipModel], inputs: ClipInputs, settings: ClipEvalSection, run: Run
) -> tuple[dict[str, Any], Figures]:
    """Compare at the end of a run; returns the metrics, and a function that saves a picture of retrieval."""
    metrics, embedded = compare(
        models, inputs.eval, inputs.zero_shot, settings, run.runtime, check_stop=run.check_stop
    )

    def save() -> dict[str, str]:
        save_retrieval(inputs.eval, embedded, run.file("pictures/retrieval.png"))
        return {"What each model finds for a caption": "pictures/retrieval.png"}

    return metrics, save


def save_retrieval(pairs: CaptionSet, embedded: Mapping[str, Mapping[str, Tensor]], file: Path) -> None:
    """Write a picture: captions with their image, and the nearest images by each model's embeddings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _, first = pairs.texts()
    chosen = torch.linspace(0, len(pairs) - 1, min(N_QUERIES, len(pairs))).round().long().tolist()
    block = 1 + N_NEAREST  # a gap, and what one model finds
    n_columns = 1 + len(embedded) * block
    figure = Figure(figsize=(n_columns * 0.8, len(chosen) * 1.05), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(chosen), n_columns, squeeze=False)
    for row, number in zip(axes, chosen, strict=True):
        shown: list[int | None] = [number]
        for kind in embedded.values():
            nearest = (kind["images"] @ kind["texts"][first[number]]).topk(min(N_NEAREST, len(pairs))).indices
            shown += [None, *nearest.tolist(), *[None] * (N_NEAREST - len(nearest))]
        for place, (axis, image) in enumerate(zip(row, shown, strict=True)):
            axis.axis("off")
            if image is not None:
                axis.imshow(pairs.image(image))
            if place and image == number:
                axis.set_title("✓", fontsize=7, color="green", pad=1)
        row[0].set_title(pairs.captions[number][0][:40], fontsize=6, loc="left", pad=2)
    for place, name in enumerate(embedded):
        axis = axes[0][2 + place * block]
        axis.text(0, 1.35, name, transform=axis.transAxes, fontsize=9)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.94, bottom=0.01, wspace=0.05, hspace=0.35)
    save_figure(figure, file)
