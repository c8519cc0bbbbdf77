"""What is left of each method when nothing more is learned: the same answers, from one network, from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from effcli.continual.methods.rehearsal import IncrementalMethod
from effcli.continual.network import classifier_of
from effcli.continual.prediction.onnx_classifier import export_onnx
from effcli.continual.weights import FILE_NAME, load_classifier, save_classifier
from effcli.core.errors import InputError
from effcli.core.tensor_file import save_tensors
from tests.continual.streams import learn, tiny_method, tiny_tasks

IN_FREQUENCY = "frequency.enabled=true"
METHODS = [
    ("default",),
    ("default", "frequency.encode=false"),
    ("default", "frequency.select=false"),
    ("default", "frequency.wavelet=db2"),
    ("er",),
    ("derpp",),
    ("derpp", IN_FREQUENCY),
    ("er-ace",),
    ("er-ace", IN_FREQUENCY),
    ("cls-er",),
    ("cls-er", IN_FREQUENCY),
    ("sgd",),
    ("e2net", "subnets.candidates=3"),
    ("ir",),
    ("ir", "ir.distance=cosine"),
    ("frozen-ncm",),
]
TASKS = tiny_tasks()
CLASSES = [task.classes for task in TASKS]


def learned(name: str, *settings: str) -> IncrementalMethod:
    method = tiny_method(name, *settings)
    learn(method, TASKS)
    method.learner.eval()
    return method


@pytest.mark.slow
@pytest.mark.parametrize("words", METHODS, ids=" ".join)
def test_the_classifier_answers_as_the_method_does(words: tuple[str, ...], tmp_path: Path) -> None:
    method = learned(*words)
    images = torch.cat([task.eval.images for task in TASKS])
    wanted = method.scores(images)
    found = classifier_of(method, CLASSES, 8)
    torch.testing.assert_close(found.scores(images), wanted, atol=1e-5, rtol=1e-4)
    (tmp_path / "model").mkdir()
    save_classifier(tmp_path / FILE_NAME, found)
    again = load_classifier(tmp_path)
    assert again.about == found.about and again.about.classes == tuple(f"class-{k}" for k in range(4))
    assert torch.equal(again.scores(images), found.scores(images))


@pytest.mark.slow
@pytest.mark.parametrize("words", [("default",), ("default", "frequency.wavelet=db4"), ("ir",)], ids=" ".join)
def test_onnx_answers_as_torch_does_for_any_batch(words: tuple[str, ...], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    classifier = classifier_of(learned(*words), CLASSES, 8)
    export_onnx(tmp_path / "c.onnx", classifier)
    session = onnxruntime.InferenceSession(str(tmp_path / "c.onnx"))
    for n in (1, 3):
        images = TASKS[0].eval.images[:n].float() / 255
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(logits), classifier(images).detach(), atol=1e-4, rtol=1e-4
        )
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(classifier.about.classes)
    assert json.loads(about["tasks"]) == [list(names) for names in CLASSES]


def test_a_classifier_says_its_wavelet_and_an_older_one_is_haar(tmp_path: Path) -> None:
    method = tiny_method("default", "frequency.wavelet=db2")
    classifier = classifier_of(method, CLASSES, 8)
    file, older = tmp_path / "c.safetensors", tmp_path / "older.safetensors"
    save_classifier(file, classifier)
    assert load_classifier(file).about.wavelet == "db2"
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    about = json.loads(metadata["about"])
    tensors = {name: value.contiguous() for name, value in classifier.state_dict().items()}
    save_tensors(
        older, tensors, {**metadata, "about": json.dumps({k: about[k] for k in about if k != "wavelet"})}
    )
    read = load_classifier(older)
    assert read.about.wavelet == "haar" and read.encoder is not None and read.encoder.wavelet == "haar"
    save_tensors(older, tensors, {**metadata, "about": json.dumps({**about, "wavelet": "db0"})})
    with pytest.raises(InputError, match=r"about\.wavelet: .*unknown wavelet 'db0'"):
        load_classifier(older)


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no classifier in it"):
        load_classifier(tmp_path)
    save_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {"format": "other", "version": "1"})
    with pytest.raises(InputError, match=r"other\.safetensors"):
        load_classifier(tmp_path / "other.safetensors")


def test_a_classifier_whose_weights_do_not_fit_its_description_is_refused(tmp_path: Path) -> None:
    classifier = classifier_of(learned("er"), CLASSES, 8)
    file = tmp_path / "c.safetensors"
    save_classifier(file, classifier)
    tensors = classifier.state_dict()
    tensors["classifier.head.weight"] = tensors["classifier.head.weight"][:3].contiguous()
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_tensors(file, {name: value.contiguous() for name, value in tensors.items()}, metadata)
    with pytest.raises(InputError, match=r"head\.weight has shape"):
        load_classifier(file)
