"""Inputs of a network from a file: what is missing, strange or of another shape is named; what fits is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from effcli.core.errors import InputError
from effcli.diffusion.checking import check_forward
from effcli.diffusion.conditioning import Guided, guidance_embedding
from effcli.diffusion.models import DiffusionModel, network_timesteps
from tests.diffusion.test_checking import conditional
from tests.diffusion.tiny_denoisers import save_inputs, tiny_denoiser
from tests.diffusion.tiny_models import SCHEDULER, tiny_unet


def guided_by(file: Path, unet: torch.nn.Module, tensors: dict[str, torch.Tensor], **settings: Any) -> Guided:
    save_file(tensors, file)
    model = DiffusionModel(unet, SCHEDULER, "m")
    guided = Guided(model, unet, inputs=str(file), **settings)
    check_forward(model, guided)
    return guided


@pytest.mark.parametrize(
    ("make", "tensors"),
    [
        (lambda: tiny_unet(in_channels=3), {"channels": torch.ones(2, 2, 8, 8)}),
        (lambda: tiny_unet(class_embed_type="timestep"), {"class_labels": torch.tensor([3.0, 20.0])}),
        (lambda: tiny_unet(class_embed_type="identity"), {"class_labels": torch.ones(2, 64)}),
        (
            lambda: conditional(in_channels=9),
            {"channels": torch.ones(2, 5, 8, 8), "encoder_hidden_states": torch.ones(2, 3, 8)},
        ),
        (
            lambda: conditional(
                class_embed_type="simple_projection", projection_class_embeddings_input_dim=6
            ),
            {"class_labels": torch.ones(2, 6), "encoder_hidden_states": torch.ones(2, 3, 8)},
        ),
        (lambda: conditional(time_cond_proj_dim=8), {"encoder_hidden_states": torch.ones(2, 3, 8)}),
        (
            lambda: conditional(
                encoder_hid_dim=8, encoder_hid_dim_type="image_proj", addition_embed_type="image",
                cross_attention_dim=8,
            ),
            {"added_cond_kwargs.image_embeds": torch.ones(2, 8)},
        ),
    ],
    ids=["channels", "timestep", "identity", "inpainting", "unclip", "lcm", "kandinsky"],
)  # fmt: skip
def test_what_a_file_gives_is_enough(make: Any, tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    guided = guided_by(tmp_path / "x.safetensors", make(), tensors)
    condition = guided.random_condition(3, torch.Generator().manual_seed(0))
    assert set(tensors) <= set(condition)
    assert all(len(value) == 3 for value in condition.values())


def test_the_guidance_scale_as_an_input_is_that_of_lcm(tmp_path: Path) -> None:
    from diffusers import LatentConsistencyModelPipeline

    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
        None, torch.tensor([7.5]), embedding_dim=8
    )
    torch.testing.assert_close(guidance_embedding(7.5, 8), theirs[0])
    unet = conditional(time_cond_proj_dim=8)
    tensors = {"encoder_hidden_states": torch.ones(2, 3, 8)}
    guided = guided_by(tmp_path / "x.safetensors", unet, tensors, guidance=8.5)
    assert guided.guidance == 1
    condition = guided.random_condition(2, torch.Generator())
    torch.testing.assert_close(condition["timestep_cond"][1], theirs[0])


def test_guidance_mixes_with_what_means_no_condition(tmp_path: Path) -> None:
    network = tiny_denoiser("sd3")
    file = save_inputs(tmp_path / "x.safetensors", network)
    model = DiffusionModel(network, SCHEDULER, "m")
    guided = Guided(model, network, guidance=3.0, inputs=str(file))
    condition = guided.random_condition(2, torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, 8, 8)
    none = {name: torch.zeros_like(value) for name, value in condition.items()}
    out = guided.predictor(condition)(x, 9)
    with_condition, without = guided.call(x, 9, condition), guided.call(x, 9, none)
    torch.testing.assert_close(out, without + 3 * (with_condition - without), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"chanels": torch.ones(2, 2, 8, 8)}, "chanels is not an input of this network"),
        (
            {"channels": torch.ones(2, 1, 8, 8)},
            "channels has the shape [2, 1, 8, 8], the network needs channels",
        ),
        ({"null.channels": torch.ones(2, 8, 8)}, "its inputs do not have the same number of rows: none"),
        ({"channels": torch.full((2, 2, 8, 8), torch.nan)}, "channels is not finite"),
    ],
)
def test_what_does_not_fit_is_named(tensors: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        guided_by(tmp_path / "x.safetensors", tiny_unet(in_channels=3), tensors)
    assert message in str(caught.value)


def test_networks_without_a_row_are_not_called() -> None:
    import diffusers

    qwen = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=8, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    other = diffusers.PriorTransformer(
        num_attention_heads=1, attention_head_dim=8, num_layers=1, embedding_dim=8, num_embeddings=2
    )
    for network, reason in (
        (qwen, "is a QwenImageTransformer2DModel: it is given shapes of images"),
        (
            other,
            "is a PriorTransformer: what it must be given and how it is told the time are not known here",
        ),
    ):
        with pytest.raises(InputError, match=reason):
            Guided(DiffusionModel(network, SCHEDULER, "m"), network)


def test_lumina_is_told_how_far_the_image_is(tmp_path: Path) -> None:
    network: Any = tiny_denoiser("lumina")
    file = save_inputs(tmp_path / "inputs.safetensors", network)
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 6.0}
    model = DiffusionModel(network, flow, "m")
    guided = Guided(model, network, inputs=str(file))
    condition = guided.random_condition(2, torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        towards_the_image = network(
            x,
            torch.full((2,), 0.25),
            condition["encoder_hidden_states"],
            condition["encoder_attention_mask"].bool(),
        ).sample
        torch.testing.assert_close(guided.predictor(condition)(x, 750.0), -towards_the_image)
    told = network_timesteps(model, 4)
    assert told[0] == 0 and told == sorted(told)


def test_sana_sprint_is_not_taken_for_sana() -> None:
    network = tiny_denoiser("sana")
    with pytest.raises(
        InputError, match=r"needs encoder_hidden_states \[images, N, 8\], embeddings .* by Gemma"
    ):
        Guided(DiffusionModel(network, SCHEDULER, "m"), network)
    network.register_to_config(timestep_scale=1000.0)
    with pytest.raises(InputError, match=r"timestep_scale is 1000\.0: Sana-Sprint is not supported"):
        Guided(DiffusionModel(network, SCHEDULER, "m"), network)
