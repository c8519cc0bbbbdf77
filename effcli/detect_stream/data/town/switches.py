"""Which parts of the town are switched on: `town`, or `town-camera-optics` without two of them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from effcli.core.errors import UsageError


@dataclass(frozen=True)
class TownSwitches:
    """Groups of what varies; each can be left out, to measure what it is worth.

    Attributes:
        camera: focal length, baseline, height, pitch and roll per drive, their oscillation; slopes, bends and camber.
        clutter: poles, trees, signs, hedges, walls, fences, near house fronts, parked rows, vans and trucks.
        optics: each eye's own gain, colour, gamma, blur, JPEG and erased patches; cast shadows, clipped lights.
        shapes: meshes of vehicles and jointed people; else boxes.
        textures: a material of its own for each surface; else one noise for all.
    """

    camera: bool = True
    clutter: bool = True
    optics: bool = True
    shapes: bool = True
    textures: bool = True

    @property
    def name(self) -> str:
        """As it is written in the name of a source."""
        return "-".join(["town", *(f.name for f in fields(self) if not getattr(self, f.name))])


GROUPS = tuple(f.name for f in fields(TownSwitches))


def parse_town(name: str) -> TownSwitches | None:
    """The switches of ``town`` or ``town-GROUP-GROUP``; None for another preset.

    Raises:
        UsageError: a group is unknown.
    """
    first, *off = name.split("-")
    if first != "town":
        return None
    unknown = [group for group in off if group not in GROUPS]
    if unknown:
        raise UsageError(
            f"no group {unknown[0]!r} to leave out",
            place=name,
            hint=f"town-GROUP; groups: {', '.join(GROUPS)}",
        )
    return TownSwitches(**dict.fromkeys(off, False))
