"""The diffusion model that distillation and quantization start from; docs/methods/rdd.md, Base model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from effcli.core.errors import UsageError
from effcli.core.evidence.result import Result
from effcli.core.files import sha256
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.data.image_sets import ImageSet, to_bytes
from effcli.data.picture_grid import save_grid
from effcli.diffusion.checking import check_forward
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import alpha_sigma
from effcli.diffusion.models import UNET_FILE, DiffusionModel, build_unet, save_file
from effcli.diffusion.sampling import sample_images
from effcli.diffusion.schedulers import NULL_CLASS, ddim_config
from effcli.distill.losses import min_snr_loss, truncated_snr_loss
from effcli.distill.recipe import TeacherRecipe
from effcli.distill.targets import to_x0
from effcli.distill.time_grid import Point
from effcli.distill.trained.inputs import load_training_images, plan_of_images
from effcli.nn.ema import Ema
from effcli.nn.schedules import cosine, set_rate

N_PICTURES = 64

WEIGHTINGS = {"truncated_snr": truncated_snr_loss, "min_snr": min_snr_loss}


def plan(recipe: TeacherRecipe) -> Plan[ImageSet]:
    """The images, and what :func:`train` would train; building and calling it proves that its sizes fit together.

    Raises:
        InputError: they do not.
        UsageError: the network would not be told classes, or could not be guided, as the recipe asks for.
    """
    _check_guidance(recipe)
    images = load_training_images(recipe)
    unet = build_teacher(recipe, len(images.classes))
    check_forward(DiffusionModel(unet, scheduler_config(recipe, len(images.classes)), "unet"))
    n_parameters = sum(p.numel() for p in unet.parameters())
    return Plan({"parameters": n_parameters, **plan_of_images(recipe, images)}, images)


def train(recipe: TeacherRecipe, images: ImageSet, run: Run) -> Result:
    """A diffusion model from images, and pictures of it."""
    unet = build_teacher(recipe, len(images.classes)).to(run.runtime.device)
    fit_teacher(unet, images, recipe, run)
    metrics: dict[str, Any] = {
        "parameters": sum(p.numel() for p in unet.parameters()),
        "train_images": len(images),
    }
    if run.runtime.is_main:
        file = run.file(f"model/{UNET_FILE}")
        save_file(file, unet, scheduler_config(recipe, len(images.classes)))
        metrics["weights_sha256"] = sha256(file)
    return run.finish(
        metrics, lambda: save_samples(unet, scheduler_config(recipe, len(images.classes)), recipe, run)
    )


def save_samples(unet: nn.Module, config: dict[str, Any], recipe: TeacherRecipe, run: Run) -> dict[str, str]:
    """Samples of random classes, where there are any, for the report; by this rank only."""
    guided = Guided(DiffusionModel(unet, config, "teacher"), unet, guidance=recipe.sampler.guidance)
    images = sample_images(guided, recipe.sampler, N_PICTURES, N_PICTURES, run.runtime.alone())
    save_grid(to_bytes(images), run.file("pictures/samples.png"))
    return {f"Samples, {recipe.sampler.steps} DDIM steps": "pictures/samples.png"}


def build_teacher(recipe: TeacherRecipe, n_classes: int) -> nn.Module:
    """A new UNet; ``n_classes`` are the classes of a class-conditional one."""
    settings, data = recipe.unet, recipe.data
    levels = range(len(settings.block_out_channels))
    down = ["AttnDownBlock2D" if i in settings.attention_levels else "DownBlock2D" for i in levels]
    up = ["AttnUpBlock2D" if i in settings.attention_levels else "UpBlock2D" for i in reversed(levels)]
    config = {
        "sample_size": data.side,
        "in_channels": data.channels,
        "out_channels": data.channels,
        "block_out_channels": list(settings.block_out_channels),
        "layers_per_block": settings.layers_per_block,
        "down_block_types": down,
        "up_block_types": up,
        "norm_num_groups": settings.norm_num_groups,
        "attention_head_dim": settings.attention_head_dim,
        "dropout": settings.dropout,
        "num_class_embeds": n_classes + _is_guidable(recipe) if settings.class_conditional else None,
    }
    torch.manual_seed(recipe.seed)
    return build_unet("UNet2DModel", config)


def scheduler_config(recipe: TeacherRecipe, n_classes: int) -> dict[str, Any]:
    """The scheduler's configuration: trailing steps, the last of which ends at the clean image."""
    null_class = {NULL_CLASS: n_classes} if _is_guidable(recipe) else {}
    return {
        **null_class,
        "_class_name": "DDIMScheduler",
        **recipe.schedule.model_dump(),
        "timestep_spacing": "trailing",
        "clip_sample": True,
        "steps_offset": 0,
    }


def _is_guidable(recipe: TeacherRecipe) -> bool:
    """Whether the network also learns a label that means no class."""
    return recipe.unet.class_conditional and recipe.train.label_dropout > 0


def _check_guidance(recipe: TeacherRecipe) -> None:
    """Refuse settings that have no effect, or that fail when the training is over."""
    if recipe.train.label_dropout and not recipe.unet.class_conditional:
        raise UsageError(
            "only a class-conditional model has labels to drop",
            place="train.label_dropout",
            hint="add -s unet.class_conditional=true",
        )
    if recipe.sampler.guidance != 1 and not _is_guidable(recipe):
        raise UsageError(
            "only a class-conditional model that also learns a label for no class can be guided",
            place="sampler.guidance",
            hint="add -s unet.class_conditional=true -s train.label_dropout=0.1",
        )


def fit_teacher(unet: nn.Module, images: ImageSet, recipe: TeacherRecipe, run: Run) -> None:
    """Train ``unet`` in place; it ends with the averaged weights."""
    from diffusers import DDIMScheduler

    settings, runtime = recipe.train, run.runtime
    scheduler = DDIMScheduler.from_config(ddim_config(scheduler_config(recipe, len(images.classes))))
    alphas_cumprod = scheduler.alphas_cumprod.to(runtime.device)
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    loss_of = WEIGHTINGS[settings.weighting]
    ema = Ema(unet, settings.ema_decay)
    parallel: nn.Module = runtime.wrap(unet)
    unet.train()
    for step in run.steps("train", settings.steps, {"unet": unet, "optimizer": optimizer, "ema": ema}):
        x, labels = images.batch(
            step, settings.batch_size, runtime, seed=recipe.seed, flip=recipe.augment.flip
        )
        noise, t = torch.randn(x.shape), torch.randint(recipe.schedule.num_train_timesteps, (len(x),))
        x, noise, t = x.to(runtime.device), noise.to(runtime.device), t.to(runtime.device)
        alpha, sigma = alpha_sigma(alphas_cumprod, t)
        rate = cosine(step, settings.steps, settings.learning_rate, 0.0)
        set_rate(optimizer, rate * min(1.0, (step + 1) / (settings.warmup_steps + 1)))
        z = alpha * x + sigma * noise
        if _is_guidable(recipe):
            labels = labels.masked_fill(torch.rand(len(x)) < settings.label_dropout, len(images.classes))
        condition = {"class_labels": labels.to(runtime.device)} if recipe.unet.class_conditional else {}
        with runtime.autocast():
            prediction = parallel(z, t, **condition, return_dict=False)[0].float()
        x_hat = to_x0(prediction, z, Point(t, alpha, sigma), recipe.schedule.prediction_type)
        loss = loss_of(x_hat, x, alpha, sigma)
        run.log("train", step, every=50, loss=loss.detach(), learning_rate=rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), settings.grad_clip)
        optimizer.step()
        ema.update(unet)
    ema.copy_to(unet)
    unet.eval()
