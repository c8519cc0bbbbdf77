"""What a UNet's configuration says that it must be given beside noisy images, timesteps, text and classes."""

from __future__ import annotations

from effcli.core.errors import InputError
from effcli.diffusion.configs import config_of
from effcli.diffusion.models import DiffusionModel

_MISSING_INPUTS = {
    "addition_embed_type": "added conditions, as of SDXL, are not supported",
    "class_embed_type": "class embeddings of this kind are not supported, only a table of num_class_embeds",
    "encoder_hid_dim_type": "projected embeddings, as of Kandinsky and DeepFloyd IF, are not supported",
    "time_cond_proj_dim": "the guidance scale as an input, as of LCM, is not supported",
}
"""Keys that make a UNet ask for what no recipe gives; null is what all others have."""

_CHANNELS = {
    9: "inpainting models see a mask and the masked image",
    8: "models such as InstructPix2Pix see a second image",
    7: "upscalers see a small image",
    5: "models such as depth-to-image see a map",
}


def check_inputs(model: DiffusionModel) -> None:
    """Refuse, by its configuration alone, a UNet that asks for inputs that are not there.

    Raises:
        InputError: naming the key and its value.
    """
    config = config_of(model.unet)
    for key, reason in _MISSING_INPUTS.items():
        if config.get(key) is not None:
            raise InputError(f"the UNet's {key} is {config[key]!r}: {reason}", place=model.source)
    if config.get("time_embedding_type") == "fourier":
        raise InputError(
            "the UNet's time_embedding_type is 'fourier': it is told noise levels, not timesteps",
            place=model.source,
        )
    if str(config.get("attention_type", "default")) != "default":
        raise InputError(
            f"the UNet's attention_type is {config['attention_type']!r}: boxes, as of GLIGEN, are not supported",
            place=model.source,
        )
    n_in, n_out = config["in_channels"], config["out_channels"]
    if n_out == 2 * n_in:
        raise InputError(
            f"the UNet's out_channels is {n_out} for in_channels {n_in}: "
            "models that predict variances too are not supported",
            place=model.source,
        )
    if n_in != n_out:
        why = f": {_CHANNELS[n_in]}" if n_in in _CHANNELS else ""
        raise InputError(
            f"the UNet's in_channels is {n_in}, its out_channels {n_out}{why}, which is not supported",
            place=model.source,
        )
