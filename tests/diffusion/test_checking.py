"""One forward pass before any work: wrong channels and missing inputs, by key and value."""

import pytest
import torch

from effcli.core.errors import InputError
from effcli.diffusion.checking import check_forward
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.denoisers.prompts import PromptEmbedder
from effcli.diffusion.models import DiffusionModel
from tests.diffusion.tiny_models import SCHEDULER, tiny_conditional_unet, tiny_unet


def conditional(**changes):
    from diffusers import UNet2DConditionModel

    settings = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 8,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**(settings | changes)).eval()


@pytest.mark.parametrize(
    ("unet", "message"),
    [
        (
            lambda: tiny_unet(in_channels=4, out_channels=1),
            "m: its network needs channels [images, 3, 8, 8], the small image, as of upscalers",
        ),
        (
            lambda: conditional(in_channels=9),
            "m: its network needs channels [images, 5, 8, 8], the mask and the image under it, as of inpainting models",
        ),
        (
            lambda: conditional(in_channels=8),
            "m: its network needs channels [images, 4, 8, 8], the latents of the image to be edited, as of "
            "InstructPix2Pix",
        ),
        (
            lambda: conditional(class_embed_type="projection", projection_class_embeddings_input_dim=8),
            "m: its network needs class_labels [images, 8], an embedding (class_embed_type 'projection')",
        ),
        (
            lambda: conditional(encoder_hid_dim=8, encoder_hid_dim_type="image_proj"),
            "m: its network needs added_cond_kwargs.image_embeds [images, 8], the embedding of an image",
        ),
        (
            lambda: tiny_unet(class_embed_type="timestep"),
            "m: its network needs class_labels [images], an embedding (class_embed_type 'timestep')",
        ),
        (
            lambda: tiny_unet(class_embed_type="identity"),
            "m: its network needs class_labels [images, 64], an embedding (class_embed_type 'identity')",
        ),
        (
            lambda: tiny_unet(time_embedding_type="fourier"),
            "m: the UNet's time_embedding_type is 'fourier': it takes noise levels, not timesteps",
        ),
        (
            lambda: tiny_unet(out_channels=3),
            "m: the UNet's out_channels is 3 for in_channels 1: neither as many, nor a variance for each",
        ),
    ],
)
def test_inputs_that_are_not_there_are_named(unet, message):
    with pytest.raises(InputError) as caught:
        check_forward(DiffusionModel(unet(), SCHEDULER, "m"))
    assert str(caught.value) == message


def test_what_only_a_call_shows_is_one_line_with_the_keys():
    model = DiffusionModel(tiny_unet(sample_size=9), SCHEDULER, "m")
    with pytest.raises(InputError) as caught:
        check_forward(model)
    assert str(caught.value).startswith(
        "m: the network cannot be called with sample 1x1x9x9 (in_channels 1, sample_size 9): "
    )
    assert "\n" not in str(caught.value)


def test_a_decoder_of_other_channels_is_found():
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=3).eval()
    model = DiffusionModel(tiny_unet(), SCHEDULER, "m")
    with pytest.raises(InputError, match="the decoder cannot be called with sample 1x1x8x8"):
        check_forward(model, decode=lambda x: vae.decode(x).sample)


@pytest.mark.parametrize("changes", [{}, {"num_class_embeds": 5}], ids=["unconditional", "classes"])
def test_what_fits_passes_and_moves_no_global_generator(changes):
    model = DiffusionModel(tiny_unet(**changes), SCHEDULER, "m")
    before = torch.random.get_rng_state()
    check_forward(model, Guided(model, model.unet))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_embeddings_of_another_width_are_found():
    model = DiffusionModel(tiny_conditional_unet(), SCHEDULER, "m")
    embeddings = {"encoder_hidden_states": torch.zeros(2, 6, 12)}  # of a text encoder of 12 numbers per token
    embedder = PromptEmbedder((), lambda prompts: (embeddings, {}))
    with pytest.raises(InputError, match=r"encoder_hidden_states \[6, 12\] per image, its network needs"):
        Guided(model, model.unet, embedder=embedder)


def test_a_predicted_variance_is_left_out():
    scheduler = {**SCHEDULER, "_class_name": "DDPMScheduler", "variance_type": "learned_range"}
    unet = tiny_unet(out_channels=2)
    model = DiffusionModel(unet, scheduler, "m")
    check_forward(model)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(Guided(model, unet).call(x, 7, {}), unet(x, 7).sample[:, :1])
    with pytest.raises(
        InputError, match="variance_type is 'learned_range', but its network's out_channels is 1"
    ):
        check_forward(DiffusionModel(tiny_unet(), scheduler, "m"))
