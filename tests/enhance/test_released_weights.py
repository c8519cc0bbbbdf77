"""Released checkpoints: converted names, and what they compute, against a naive evaluation.

``released_state`` builds a state dict with the names and shapes of the released code, and ``Released``
evaluates it naively by those names, so that the conversion is checked for meaning, not only for shape.
"""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from effcli.core.errors import InputError
from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.released_weights import convert_released, released_name
from effcli.enhance.weights import load_weights

State = dict[str, Tensor]
SMALL = WalMaFaConfig(dim=4, blocks=(1, 1, 2), d_state=4, head="picture")


# ---- the released names, shapes and forward pass


def conv(name: str, out: int, inner: int, size: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (out, inner, size, size)}
    return {**shapes, **({f"{name}.bias": (out,)} if bias else {})}


def affine(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def batch_norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    statistics = {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
    return {**affine(name, channels), **statistics, f"{name}.num_batches_tracked": ()}


def mamba(name: str, c: int, expand: int, n: int) -> dict[str, tuple[int, ...]]:
    inner, rank = expand * c, -(-c // 16)
    return {
        f"{name}.A_log": (inner, n),
        f"{name}.D": (inner,),
        f"{name}.in_proj.weight": (2 * inner, c),
        f"{name}.conv1d.weight": (inner, 1, 4),
        f"{name}.conv1d.bias": (inner,),
        f"{name}.x_proj.weight": (rank + 2 * n, inner),
        f"{name}.dt_proj.weight": (inner, rank),
        f"{name}.dt_proj.bias": (inner,),
        f"{name}.out_proj.weight": (c, inner),
    }


def estimator(name: str, n: int, k: int) -> dict[str, tuple[int, ...]]:
    return (
        conv(f"{name}.conv1", k, n + 1, 1)
        | conv(f"{name}.depth_conv", k, 1, 5)
        | conv(f"{name}.conv2", n, k, 1)
    )


def block(name: str, c: int, n: int) -> dict[str, tuple[int, ...]]:
    k = int(2.66 * c)
    shapes = (
        affine(f"{name}.norm1.body", c) | estimator(f"{name}.illu", c, c) | affine(f"{name}.norm2.body", c)
    )
    for index, size in ((1, 3), (2, 1)):
        shapes |= conv(f"{name}.ffn.rep_conv{index}.c", k, 1, size, bias=False)
        shapes |= batch_norm(f"{name}.ffn.rep_conv{index}.bn", k)
    shapes |= conv(f"{name}.ffn.project_in", k, c, 1, bias=False) | conv(
        f"{name}.ffn.dwconv", k, 1, 3, bias=False
    )
    shapes |= conv(f"{name}.ffn.project_out", c, k, 1, bias=False)
    shapes |= conv(f"{name}.mb.convb.0", 2 * c, c, 3) | conv(f"{name}.mb.convb.2", c, 2 * c, 3)
    shapes |= mamba(f"{name}.mb.model1", c, 2, n) | mamba(f"{name}.mb.model2", c, 9, n)
    return shapes | conv(f"{name}.mb.smooth", c, c, 3) | affine(f"{name}.mb.ln", c)


def process(name: str, n: int) -> dict[str, tuple[int, ...]]:
    frequency = f"{name}.frequency_process"
    shapes = conv(f"{frequency}.fpre", n, n, 1) | conv(f"{name}.cat", n, n, 1)
    for stack in ("process1", "process2"):
        shapes |= conv(f"{frequency}.{stack}.0", n, n, 1) | conv(f"{frequency}.{stack}.2", n, n, 1)
    return shapes


def fourier(name: str, n: int) -> dict[str, tuple[int, ...]]:
    shapes = conv(f"{name}.conv0.0", n, n, 1) | process(f"{name}.conv0.1", n)
    for stage in ("conv1", "conv2", "conv3"):
        shapes |= process(f"{name}.{stage}", n)
    for stage in ("conv4", "conv5", "convout"):
        shapes |= process(f"{name}.{stage}.0", 2 * n) | conv(f"{name}.{stage}.1", n, 2 * n, 1)
    return shapes


LEVELS = {  # name: (channels in units of dim, which entry of `blocks`)
    "decoder_level1_0": (2, 0),
    "decoder_level2_0": (4, 1),
    "decoder_level3_0": (8, 2),
    "decoder_level2_1": (4, 1),
    "decoder_level1_1": (2, 0),
    "sim": (1, 0),
}


def released_shapes(config: WalMaFaConfig) -> dict[str, tuple[int, ...]]:
    c = config.dim
    shapes = {"coefficient": (4, 2, 8 * c)} | estimator("estimator", 3, c)
    shapes |= conv("patch_embed.proj", c, 3, 3, bias=False) | conv(
        "patch_embed_mask.proj", c, 1, 3, bias=False
    )
    for level, (width, entry) in LEVELS.items():
        for index in range(config.blocks[entry]):
            shapes |= block(f"{level}.{index}", width * c, config.d_state)
    shapes |= fourier("latent", 8 * c)
    for k in (1, 2, 3):
        width = c << k - 1
        shapes |= conv(f"down_{k}.body.0", width // 2, width, 3, bias=False)
        shapes |= conv(f"up{('2_0', '2_1', '3_2')[k - 1]}.body.0", 4 * width, 2 * width, 3, bias=False)
    shapes |= {"coefficient_3_2": (2, 4 * c), "coefficient_2_1": (2, 2 * c), "coefficient_1_0": (2, c)}
    for name, width in (("skip_3_2", 4 * c), ("skip_2_1", 2 * c), ("skip_1_0", 2 * c)):
        shapes |= conv(name, width, width, 1, bias=False)
    return shapes | conv("output", 3, c, 3, bias=False)


def released_state(config: WalMaFaConfig = SMALL) -> State:
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, shape in released_shapes(config).items():
        values = torch.randn(shape, generator=generator)
        fan_in = max(1, values[0].numel()) if values.ndim > 1 else 1
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif "running_var" in name or "A_log" in name:
            state[name] = values.abs() + 0.1
        else:
            state[name] = values / fan_in**0.5
    return state


class Released:
    """A naive evaluation of a released state dict, by its own names ("high" band, reshape order)."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv(self, name: str, x: Tensor, **options: int) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, **options)

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        weight, bias = (self.state[f"{name}.{p}"][:, None, None] for p in ("weight", "bias"))
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def estimator(self, name: str, x: Tensor) -> Tensor:
        mixed = self.conv(f"{name}.conv1", torch.cat([x, x.mean(1, keepdim=True)], dim=1))
        return self.conv(f"{name}.depth_conv", mixed, groups=mixed.shape[1])

    def mamba(self, name: str, s: Tensor) -> Tensor:
        p = {
            key.removeprefix(f"{name}."): value
            for key, value in self.state.items()
            if key.startswith(f"{name}.")
        }
        inner, n = p["A_log"].shape
        a, g = (s @ p["in_proj.weight"].T).split(inner, dim=-1)
        padded = F.pad(a.transpose(1, 2), (3, 0))
        a = F.silu(F.conv1d(padded, p["conv1d.weight"], p["conv1d.bias"], groups=inner)).transpose(1, 2)
        low, B, C = (a @ p["x_proj.weight"].T).split([p["dt_proj.weight"].shape[1], n, n], dim=-1)
        delta = F.softplus(low @ p["dt_proj.weight"].T + p["dt_proj.bias"])
        h, outputs = torch.zeros(s.shape[0], inner, n), []
        for t in range(s.shape[1]):
            d = delta[:, t, :, None]
            h = torch.exp(-d * p["A_log"].exp()) * h + d * a[:, t, :, None] * B[:, t, None, :]
            outputs.append((h * C[:, t, None, :]).sum(-1) + p["D"] * a[:, t])
        return (torch.stack(outputs, 1) * F.silu(g)) @ p["out_proj.weight"].T

    def wavelet_mamba(self, name: str, x: Tensor) -> Tensor:
        u = x + self.conv(f"{name}.convb.2", F.relu(self.conv(f"{name}.convb.0", x)))
        tokens = u.contiguous().view(u.shape[0], -1, u.shape[1])
        weight, bias = self.state[f"{name}.ln.weight"], self.state[f"{name}.ln.bias"]
        scanned = self.mamba(f"{name}.model1", F.layer_norm(tokens, weight.shape, weight, bias))
        return self.conv(f"{name}.smooth", scanned.permute(0, 2, 1).reshape(x.shape))

    def feed_forward(self, name: str, v: Tensor) -> Tensor:
        a = self.conv(f"{name}.project_in", v)
        p = a
        for branch in ("rep_conv1", "rep_conv2"):
            bn = {
                key: self.state[f"{name}.{branch}.bn.{key}"]
                for key in ("running_mean", "running_var", "weight", "bias")
            }
            p = p + F.batch_norm(self.conv(f"{name}.{branch}.c", a, groups=a.shape[1]), **bn)  # type: ignore[arg-type]
        q = self.conv(f"{name}.dwconv", a, groups=a.shape[1])
        return self.conv(f"{name}.project_out", F.gelu(q) * p + F.gelu(p) * q) + v

    def block(self, name: str, x: Tensor) -> Tensor:
        z = 2 * self.layer_norm(f"{name}.norm1.body", x) - 1
        p, q, r, s = z[..., ::2, ::2], z[..., 1::2, ::2], z[..., ::2, 1::2], z[..., 1::2, 1::2]
        details = torch.cat([-p - q + r + s, -p + q - r + s, p - q - r + s]) / 2
        ll = self.estimator(f"{name}.illu", (p + q + r + s) / 2)
        hl, lh, hh = self.wavelet_mamba(f"{name}.mb", details).chunk(3)
        o = torch.empty_like(z)
        o[..., ::2, ::2], o[..., 1::2, ::2] = ll - hl - lh + hh, ll - hl + lh - hh
        o[..., ::2, 1::2], o[..., 1::2, 1::2] = ll + hl - lh - hh, ll + hl + lh + hh
        y = z + torch.clamp((o / 2 + 1) / 2, 0, 1)
        return y + self.feed_forward(f"{name}.ffn", self.layer_norm(f"{name}.norm2.body", y))

    def level(self, name: str, x: Tensor) -> Tensor:
        for index in range(
            1 + max(int(key.split(".")[1]) for key in self.state if key.startswith(f"{name}."))
        ):
            x = self.block(f"{name}.{index}", x)
        return x

    def process(self, name: str, v: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(self.conv(f"{name}.frequency_process.fpre", v))
        parts = []
        for stack, part in (("process1", spectrum.abs()), ("process2", spectrum.angle())):
            hidden = F.leaky_relu(self.conv(f"{name}.frequency_process.{stack}.0", part), 0.1)
            parts.append(self.conv(f"{name}.frequency_process.{stack}.2", hidden))
        adjusted = torch.complex(parts[0] * parts[1].cos(), parts[0] * parts[1].sin())
        return self.conv(f"{name}.cat", torch.fft.irfft2(adjusted, s=v.shape[-2:]) + v) + v

    def fourier(self, x: Tensor) -> Tensor:
        x0 = self.process("latent.conv0.1", self.conv("latent.conv0.0", x))
        x1 = self.process("latent.conv1", x0)
        x2 = self.process("latent.conv2", x1)
        x3 = self.process("latent.conv3", x2)
        out, skips = x3, {"conv4": x2, "conv5": x1, "convout": x0}
        for stage, skip in skips.items():
            out = self.conv(
                f"latent.{stage}.1", self.process(f"latent.{stage}.0", torch.cat([skip, out], dim=1))
            )
        return out

    def merge(self, name: str, skip: Tensor, x: Tensor) -> Tensor:
        weight = self.state[name][..., None, None]
        return weight[0] * skip + weight[1] * x

    def __call__(self, x: Tensor) -> Tensor:
        x = x * self.conv("estimator.conv2", self.estimator("estimator", x)) + x
        x = self.conv("patch_embed.proj", x)
        e1 = self.level("decoder_level1_0", F.pixel_unshuffle(self.conv("down_1.body.0", x), 2))
        e2 = self.level("decoder_level2_0", F.pixel_unshuffle(self.conv("down_2.body.0", e1), 2))
        e3 = self.level("decoder_level3_0", F.pixel_unshuffle(self.conv("down_3.body.0", e2), 2))
        up = F.pixel_shuffle(self.conv("up3_2.body.0", self.fourier(e3)), 2)
        d2 = self.level("decoder_level2_1", self.conv("skip_3_2", self.merge("coefficient_3_2", e2, up)))
        up = F.pixel_shuffle(self.conv("up2_1.body.0", d2), 2)
        d1 = self.level("decoder_level1_1", self.conv("skip_1_0", self.merge("coefficient_2_1", e1, up)))
        up = F.pixel_shuffle(self.conv("up2_0.body.0", d1), 2)
        return self.conv("output", self.merge("coefficient_1_0", self.level("sim", up), up))


# ---- released checkpoints


def old_names(state: State) -> State:
    """The names of before commit 50f0818."""
    renamed = {}
    for name, tensor in state.items():
        head, _, rest = name.partition(".")
        renamed[f"{ {'latent': 'FFAB', 'sim': 'latent'}.get(head, head) }.{rest}" if rest else name] = tensor
    return renamed


def test_released_state_dict_has_the_released_size():
    shapes = released_shapes(WalMaFaConfig(head="picture"))
    assert len(shapes) == 930
    buffers = {
        name
        for name in shapes
        if name.rsplit(".")[-1] in {"running_mean", "running_var", "num_batches_tracked"}
    }
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    assert sum(size for name, size in sizes.items() if name not in buffers) == 11_629_087
    assert sum(sizes[name] for name in buffers) == 11_248


@pytest.mark.parametrize(
    "wrap", ["plain", "module", "old", "old module", "state_dict", "params", "safetensors"]
)
def test_released_checkpoints_load_and_mean_the_same(tmp_path, wrap):
    state = released_state()
    named = old_names(state) if "old" in wrap else dict(state)
    if "module" in wrap:
        named = {f"module.{name}": tensor for name, tensor in named.items()}
    path = tmp_path / "model.pth"
    if wrap == "safetensors":
        save_file(named, path)
    else:
        torch.save(
            {"epoch": 3, wrap: named, "optimizer": {}} if wrap in {"state_dict", "params"} else named, path
        )
    network = load_weights(path)
    assert network.config == SMALL.model_copy(update={"mamba_band": "high", "token_order": "reshape"})
    assert not network.training
    x = torch.rand(1, 3, 32, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(x), Released(state)(x), rtol=1e-3, atol=1e-4)


def test_every_released_name_but_the_unused_is_used():
    state = released_state(WalMaFaConfig(dim=2, head="picture"))
    config, converted = convert_released(state)
    used = {released_name(name) for name in converted}
    unused = set(state) - used
    assert used <= set(state)
    top = {name.split(".")[0] for name in unused if ".mb.model2." not in name and ".illu.conv2." not in name}
    assert top == {"coefficient", "patch_embed_mask", "skip_2_1"}
    assert config.blocks == (2, 3, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sim.0.mb.mystery.weight": torch.zeros(1)}, "1 unknown keys: sim.0.mb.mystery.weight"),
        ({"output.weight": None}, "lacks 1 keys: output.weight"),
        ({"patch_embed.proj.weight": None}, "'patch_embed.proj.weight' is missing"),
        ({"output.weight": torch.zeros(3, 5, 3, 3)}, r"output.conv.weight has shape \(3, 5, 3, 3\)"),
        ({"patch_embed.proj.weight": torch.zeros(3, 3, 3, 3)}, "shapes of its tensors do not fit together"),
    ],
)
def test_wrong_released_checkpoints_are_refused_in_one_line(tmp_path, change, message):
    state = {name: tensor for name, tensor in {**released_state(), **change}.items() if tensor is not None}
    path = tmp_path / "model.pth"
    torch.save(state, path)
    with pytest.raises(InputError, match=message) as error:
        load_weights(path)
    assert error.value.place == str(path)
    assert "\n" not in str(error.value)
