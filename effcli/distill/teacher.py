"""The diffusion model that distillation and quantization start from (RDD, section 3.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.files import sha256
from effcli.core.result import Result
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.data.image_sets import ImageSet, load_images, to_bytes, to_range
from effcli.data.picture_grid import save_grid
from effcli.diffusion.ddim import alpha_sigma, ddim_scheduler, sample
from effcli.diffusion.models import build_unet, save_file
from effcli.distill.recipe import TeacherRecipe
from effcli.nn.ema import Ema
from effcli.nn.schedules import cosine, set_rate

N_PICTURES = 64


def plan(recipe: TeacherRecipe, n_classes: int) -> dict[str, Any]:
    """What :func:`train` would train; building it also proves that its sizes fit together."""
    return {"parameters": sum(p.numel() for p in build_teacher(recipe).parameters())}


def train(recipe: TeacherRecipe, run: Run) -> Result:
    """A diffusion model from images, and pictures of it."""
    images = load_images(recipe.data.source, "train", side=recipe.data.side, channels=recipe.data.channels)
    unet = build_teacher(recipe).to(run.runtime.device)
    fit_teacher(unet, images, recipe, run)
    metrics: dict[str, Any] = {
        "parameters": sum(p.numel() for p in unet.parameters()),
        "train_images": len(images),
    }
    figures = {}
    if run.runtime.is_main:
        file = run.file("model/unet.safetensors")
        save_file(file, unet, scheduler_config(recipe))
        metrics["weights_sha256"] = sha256(file)
        save_grid(draw_pictures(unet, recipe, run.runtime), run.file("pictures/samples.png"))
        figures = {f"Samples, {recipe.sampler.steps} DDIM steps": "pictures/samples.png"}
    return run.finish(metrics, figures)


@torch.inference_mode()
def draw_pictures(unet: nn.Module, recipe: TeacherRecipe, runtime: Runtime) -> Tensor:
    """Samples, uint8 ``[N_PICTURES, C, H, W]``."""
    shape = (N_PICTURES, recipe.data.channels, recipe.data.side, recipe.data.side)
    noise = torch.randn(shape, generator=runtime.generator("pictures")).to(runtime.device)
    scheduler = ddim_scheduler(scheduler_config(recipe), recipe.sampler.steps)
    drawn = sample(lambda x, t: unet(x, t, return_dict=False)[0], scheduler, noise, eta=recipe.sampler.eta)
    return to_bytes(drawn.cpu())


def truncated_snr_loss(
    prediction: Tensor, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, prediction_type: str
) -> Tensor:
    """Mean over the batch of max(mse(x^, x), mse(eps^, eps)), whatever the network predicts.

    With z = alpha x + sigma eps and v = alpha eps - sigma x, an error e of the prediction is, in x and eps: for
    epsilon sigma/alpha e and e; for sample e and alpha/sigma e; for v sigma e and alpha e.

    Args:
        prediction: of the network, ``[B, C, H, W]``.
        x, noise: the clean images and eps, of that shape.
        alpha, sigma: ``[B, 1, 1, 1]``.
        prediction_type: ``epsilon``, ``sample`` or ``v_prediction``.
    """
    targets = {"epsilon": noise, "sample": x, "v_prediction": alpha * noise - sigma * x}
    error = (prediction - targets[prediction_type]).square().mean((1, 2, 3), keepdim=True)
    one = torch.ones_like(alpha)
    in_x = {"epsilon": (sigma / alpha).square(), "sample": one, "v_prediction": sigma.square()}[
        prediction_type
    ]
    in_noise = {"epsilon": one, "sample": (alpha / sigma).square(), "v_prediction": alpha.square()}[
        prediction_type
    ]
    return torch.maximum(in_x * error, in_noise * error).mean()


def build_teacher(recipe: TeacherRecipe) -> nn.Module:
    """A new UNet."""
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
    }
    torch.manual_seed(recipe.seed)
    return build_unet("UNet2DModel", config)


def scheduler_config(recipe: TeacherRecipe) -> dict[str, Any]:
    """The scheduler's configuration: trailing steps, the last of which ends at the clean image."""
    return {
        "_class_name": "DDIMScheduler",
        **recipe.schedule.model_dump(),
        "timestep_spacing": "trailing",
        "clip_sample": True,
        "set_alpha_to_one": True,
        "steps_offset": 0,
    }


def fit_teacher(unet: nn.Module, images: ImageSet, recipe: TeacherRecipe, run: Run) -> None:
    """Train ``unet`` in place; it ends with the averaged weights."""
    from diffusers import DDIMScheduler

    settings, runtime = recipe.train, run.runtime
    alphas_cumprod = DDIMScheduler.from_config(scheduler_config(recipe)).alphas_cumprod.to(runtime.device)
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    ema = Ema(unet, settings.ema_decay)
    parallel: nn.Module = runtime.wrap(unet)
    unet.train()
    for step in run.steps("train", settings.steps, {"unet": unet, "optimizer": optimizer, "ema": ema}):
        rows = images.batch_indices(
            step, batch_size=settings.batch_size, seed=recipe.seed, rank=runtime.rank, world=runtime.world
        )
        x = to_range(images.images[rows])
        if recipe.data.flip:
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
        noise, t = torch.randn(x.shape), torch.randint(recipe.schedule.num_train_timesteps, (len(x),))
        x, noise, t = x.to(runtime.device), noise.to(runtime.device), t.to(runtime.device)
        alpha, sigma = alpha_sigma(alphas_cumprod, t)
        rate = cosine(step, settings.steps, settings.learning_rate, 0.0)
        set_rate(optimizer, rate * min(1.0, (step + 1) / (settings.warmup_steps + 1)))
        with runtime.autocast():
            prediction = parallel(alpha * x + sigma * noise, t, return_dict=False)[0]
        loss = truncated_snr_loss(prediction.float(), x, noise, alpha, sigma, recipe.schedule.prediction_type)
        run.log("train", step, every=50, loss=loss.detach(), learning_rate=rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), settings.grad_clip)
        optimizer.step()
        ema.update(unet)
    ema.copy_to(unet)
    unet.eval()
