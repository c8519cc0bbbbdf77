"""The level to reach: how it is asked for, and that pictures reach it or are left alone."""

from __future__ import annotations

import pytest
import torch

from effcli.core.errors import InputError
from effcli.core.runtime import create_runtime
from effcli.enhance.brightness import AUTO, LARGEST_LEVEL, Brightness, parse_brightness
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.exposure import level
from effcli.enhance.network.walmafa_net import WalMaFa

EXPOSURE = WalMaFaConfig(dim=4, blocks=(1, 1, 1), d_state=4, head="exposure")


def quiet_network(predicted: float) -> WalMaFa:
    """A network whose maps are zero and which predicts one level for every picture."""
    torch.manual_seed(0)
    network = WalMaFa(EXPOSURE).eval()
    assert network.level is not None
    with torch.no_grad():
        network.output.conv.weight.zero_()
        network.level.last.weight.zero_()
        network.level.last.bias.fill_(torch.logit(torch.tensor(predicted)))
    return network


def picture(mean: float, height: int = 40, width: int = 56) -> torch.Tensor:
    smooth = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(3))
    x = torch.nn.functional.interpolate(smooth, (height, width), mode="bicubic").clamp(0.02, 1)[0]
    return (x * mean / float(level(x))).clamp(0, 1)


def enhance(x: torch.Tensor, predicted: float, brightness: str | float = "auto") -> torch.Tensor:
    runtime = create_runtime(device="cpu", precision="fp32")
    result: torch.Tensor = Enhancer(quiet_network(predicted), runtime=runtime, brightness=brightness).enhance(
        x
    )
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", AUTO),
        ("0.45", Brightness(0.45)),
        (0.45, Brightness(0.45)),
        ("+1EV", Brightness(stops=1)),
        ("-0.5 ev", Brightness(stops=-0.5)),
    ],
)
def test_what_is_understood(text: str | float, expected: Brightness) -> None:
    assert parse_brightness(text) == expected
    assert parse_brightness(str(expected)) == expected


@pytest.mark.parametrize("text", ["0", "1", "-0.2", "1EV", "bright", "nan", "+9EV", ""])
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"auto, a level|at most 5 stops"):
        parse_brightness(text)


@pytest.mark.parametrize("wanted", [0.2, 0.4, 0.6])
def test_a_level_is_reached(wanted: float) -> None:
    assert float(level(enhance(picture(0.08), 0.5, wanted))) == pytest.approx(wanted, abs=0.02)


def test_auto_takes_the_predicted_level_and_stops_go_on_from_it() -> None:
    dark = picture(0.05)
    assert float(level(enhance(dark, 0.3))) == pytest.approx(0.3, abs=0.02)
    assert float(level(enhance(dark, 0.3, "+1EV"))) == pytest.approx(0.3 * 2 ** (1 / 2.2), abs=0.03)
    assert float(level(enhance(dark, 0.3, "-1EV"))) == pytest.approx(0.3 / 2 ** (1 / 2.2), abs=0.02)
    assert Brightness(stops=5).beyond(0.5) == LARGEST_LEVEL


@pytest.mark.parametrize("predicted", [0.2, 0.4, 0.43])
def test_a_well_lit_picture_stays_as_it_is(predicted: float) -> None:
    lit = picture(0.4)
    assert torch.equal(enhance(lit, predicted), lit)


def test_auto_never_darkens() -> None:
    for mean in (0.1, 0.2, 0.25, 0.3, 0.35):
        x = picture(mean)
        assert float(level(enhance(x, 0.35))) >= float(level(x)) - 1e-4


def test_the_level_does_not_depend_on_the_size() -> None:
    large = picture(0.06, 600, 840)
    sizes = [(75, 105), (150, 210), (300, 420), (600, 840)]
    levels = [
        float(level(enhance(torch.nn.functional.interpolate(large[None], size, mode="area")[0], 0.4)))
        for size in sizes
    ]
    assert max(levels) < 1.05 * min(levels)


def test_weights_that_say_the_picture_have_no_level_to_choose() -> None:
    network = WalMaFa(EXPOSURE.model_copy(update={"head": "picture"}))
    with pytest.raises(InputError, match="brightness: these weights have no exposure head"):
        Enhancer(network, brightness="+1EV")
    with pytest.raises(InputError, match="brightness: auto, a level"):
        Enhancer(network, brightness="more")
