"""The light of a town, compiled: materials, sun, shadows, sky and haze, in linear values.

Colours are looked up at points of the things themselves, so two cameras see the same surfaces; only gloss and panes
depend on where they are seen from, as they do outside.
"""

# The kernels are typed by numba, from the signature in _compiled.
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numba import types

from effcli.detect_stream.data.town.materials import colour_of
from effcli.detect_stream.data.value_noise import HELPER, noise
from effcli.nn.compiled.numba_threads import compile_cached

_GLASS, _PAINT, _LAMP, _HILL = 3, 2, 12, 13


@HELPER
def _sky(dx, dy, dz, light, table):
    """Radiance of a direction: a gradient, clouds, the bright part around the sun."""
    up = max(0.0, -dy)
    share = min(1.0, up * 2.2)
    cover = 0.0
    if up > 0.005:
        u, v = dx / (up + 0.12), dz / (up + 0.12)
        cover = noise(table, u * 1.1 + 3.0, v * 1.1) + 0.5 * noise(table, u * 2.7, v * 2.7 + 9.0)
        cover += 0.25 * noise(table, u * 6.1 + 5.0, v * 6.1)
        cover = min(1.0, max(0.0, (cover - 0.3 + 1.6 * light[16]) * 1.5)) * min(1.0, up * 12.0)
    glow = max(0.0, dx * light[0] + dy * light[1] + dz * light[2]) ** 24
    red = light[9] * (1 - share) + light[12] * share
    green = light[10] * (1 - share) + light[13] * share
    blue = light[11] * (1 - share) + light[14] * share
    white = light[18] * (0.85 + 0.15 * share)
    red, green, blue = (
        red + (white - red) * cover,
        green + (white - green) * cover,
        blue + (white - blue) * cover,
    )
    sun = glow * light[3] * 0.8
    return red + sun, green + sun, blue + sun


@HELPER
def _lit(shadow, where, x, y, z):
    """The share of the sun that reaches a point, bilinear between four texels."""
    u = where[0] * x + where[1] * y + where[2] * z + where[9]
    v = where[3] * x + where[4] * y + where[5] * z + where[10]
    q = where[6] * x + where[7] * y + where[8] * z + where[11] + 0.12
    height, width = shadow.shape
    if u < 1 or v < 1 or u > width - 2 or v > height - 2:
        return 1.0
    j, i = int(u), int(v)
    a, b = u - j, v - i
    top = (1 - a) * (shadow[i, j] < q) + a * (shadow[i, j + 1] < q)
    low = (1 - a) * (shadow[i + 1, j] < q) + a * (shadow[i + 1, j + 1] < q)
    return top * (1 - b) + low * b


@HELPER
def _open_sky(ambient, corner, x, z):
    """How much of the sky the ground sees beside and under things."""
    u, v = (x - corner[0]) / corner[2], (z - corner[1]) / corner[2]
    n = ambient.shape[0]
    if u < 0 or v < 0 or u >= n - 1 or v >= n - 1:
        return 1.0
    j, i = int(u), int(v)
    a, b = u - j, v - i
    top = (1 - a) * ambient[i, j] + a * ambient[i, j + 1]
    return top * (1 - b) + ((1 - a) * ambient[i + 1, j] + a * ambient[i + 1, j + 1]) * b


@HELPER
def _seen_sample(
    t, q, right, down, eye, scene_owners, scene_materials, colours, normals, things, road, light, shadow, where,
    ambient, corner, table, footprint,
):  # fmt: skip
    """Radiance of a sample on triangle ``t``, one over its depth, in a direction of the camera."""
    dx = eye[3] * right + eye[4] * down + eye[5]
    dy = eye[6] * right + eye[7] * down + eye[8]
    dz = eye[9] * right + eye[10] * down + eye[11]
    long = math.sqrt(dx * dx + dy * dy + dz * dz)
    if t < 0:
        return _sky(dx / long, dy / long, dz / long, light, table)
    depth = 1.0 / q
    x, y, z = eye[0] + dx * depth, eye[1] + dy * depth, eye[2] + dz * depth
    nx, ny, nz = normals[t, 0], normals[t, 1], normals[t, 2]
    if nx * dx + ny * dy + nz * dz > 0:
        nx, ny, nz = -nx, -ny, -nz
    material, thing = scene_materials[t], things[scene_owners[t]]
    r, g, b = colour_of(
        material, colours[t], x, y, z, nx, ny, nz, thing, road, table, footprint * depth * long
    )
    facing = nx * light[0] + ny * light[1] + nz * light[2]
    sun = 0.0
    if facing > 0:
        sun = facing * (
            _lit(shadow, where, x + 0.03 * nx, y + 0.03 * ny, z + 0.03 * nz) if light[17] > 0 else 1.0
        )
    sky = 0.62 - 0.38 * ny
    if material == 0:
        sky *= _open_sky(ambient, corner, x, z)
    if material in (_LAMP, _HILL):
        sky = 1.0
    r, g, b = (
        r * (sun * light[3] + sky * light[6]),
        g * (sun * light[4] + sky * light[7]),
        b * (sun * light[5] + sky * light[8]),
    )
    if material in (_GLASS, _PAINT):
        r, g, b = _glossy(material, r, g, b, dx / long, dy / long, dz / long, nx, ny, nz, sun, light, table)
    fog = math.exp(-depth * long / light[15])
    return r * fog + light[9] * (1 - fog), g * fog + light[10] * (1 - fog), b * fog + light[11] * (1 - fog)


@HELPER
def _glossy(material, r, g, b, dx, dy, dz, nx, ny, nz, sun, light, table):
    """A surface that also mirrors the sky, or what is across the road."""
    cos = -(dx * nx + dy * ny + dz * nz)
    mx, my, mz = dx + 2 * cos * nx, dy + 2 * cos * ny, dz + 2 * cos * nz
    share = 0.04 + 0.96 * (1 - cos) ** 5
    share = min(1.0, 0.10 + share) if material == _GLASS else 0.6 * share
    if my < 0.02:
        sr, sg, sb = _sky(mx, my, mz, light, table)
        clutter = 1.0 if -my > 0.25 + 0.12 * noise(table, mx * 4.0, mz * 4.0) else 0.25
        sr, sg, sb = sr * clutter, sg * clutter, sb * clutter
    else:
        sr, sg, sb = 0.12 * light[6], 0.12 * light[7], 0.12 * light[8]
    glint = max(0.0, mx * light[0] + my * light[1] + mz * light[2]) ** 90 * 6.0 * light[3] * (sun > 0)
    return r + share * (sr + glint), g + share * (sg + glint), b + share * (sb + glint)


@HELPER
def _alike(one, other, owners, materials):
    """Whether two triangles are of one surface."""
    if one == other:
        return True
    return one >= 0 and other >= 0 and owners[one] == owners[other] and materials[one] == materials[other]


def _shade(
    winner, nearness, lens, eye, owners, materials, colours, normals, things, road, light, shadow, where, ambient,
    corner, table, image,
):  # fmt: skip
    """Fill ``image`` ``[H, W, 3]`` from samples ``[2 H, 2 W]``.

    A pixel whose four samples lie on one surface is computed once, in its middle; others at each new surface.
    """
    height, width = image.shape[0], image.shape[1]
    f, cx, cy = lens[0], lens[1], lens[2]
    for i in range(height):
        for j in range(width):
            t = winner[2 * i, 2 * j]
            one, total = True, 0.0
            for k in range(4):
                other = winner[2 * i + (k >> 1), 2 * j + (k & 1)]
                total += nearness[2 * i + (k >> 1), 2 * j + (k & 1)]
                one = one and _alike(other, t, owners, materials)
            last, r, g, b = -2, 0.0, 0.0, 0.0
            for k in range(1 if one else 4):
                di, dj = k >> 1, (k ^ (k >> 1)) & 1  # around the pixel's middle, so that neighbours are alike
                own = winner[2 * i + di, 2 * j + dj]
                if last == -2 or not _alike(own, last, owners, materials):
                    q = total / 4 if one else nearness[2 * i + di, 2 * j + dj]
                    u, v = (float(j), float(i)) if one else (j + dj * 0.5 - 0.25, i + di * 0.5 - 0.25)
                    r, g, b = _seen_sample(
                        own, q, (u - cx) / f, (v - cy) / f, eye, owners, materials, colours, normals, things, road,
                        light, shadow, where, ambient, corner, table, 1.0 / f,
                    )  # fmt: skip
                    last = own
                weight = 1.0 if one else 0.25
                image[i, j, 0] += weight * r
                image[i, j, 1] += weight * g
                image[i, j, 2] += weight * b


def _darken(footprints, corner, ambient):
    """Take sky from the ground at rectangles: x, z, cos, sin, half length, half width, strength."""
    n = ambient.shape[0]
    for k in range(footprints.shape[0]):
        x, z, cos, sin, half_a, half_c, most = footprints[k]
        reach = half_a + half_c + 1.0
        for i in range(
            max(0, int((z - reach - corner[1]) / corner[2])),
            min(n - 1, int((z + reach - corner[1]) / corner[2])) + 1,
        ):
            for j in range(
                max(0, int((x - reach - corner[0]) / corner[2])),
                min(n - 1, int((x + reach - corner[0]) / corner[2])) + 1,
            ):
                px, pz = corner[0] + j * corner[2] - x, corner[1] + i * corner[2] - z
                a, c = abs(px * sin + pz * cos) - half_a, abs(px * cos - pz * sin) - half_c
                away = math.sqrt(max(a, 0.0) ** 2 + max(c, 0.0) ** 2)
                inside = min(max(a, c), 0.0)
                value = 1.0 - most * math.exp(-away / 0.45) * (1.0 if away > 0 else min(1.0, 0.75 - inside))
                ambient[i, j] = min(ambient[i, j], value)


@cache
def compiled_shade() -> Callable[..., None]:
    """The kernel :func:`_shade`."""
    map32, numbers, flat = types.float32[:, ::1], types.int32[::1], types.float64[::1]
    pairs = types.float64[:, ::1]
    signature = types.void(
        types.int32[:, ::1], map32, flat, flat, numbers, numbers, pairs, pairs, pairs, flat, flat, map32, flat,
        map32, flat, map32, types.float32[:, :, ::1],
    )  # fmt: skip
    return compile_cached(_shade, signature, parallel=False)


@cache
def compiled_darken() -> Callable[..., None]:
    """The kernel :func:`_darken`."""
    signature = types.void(types.float64[:, ::1], types.float64[::1], types.float32[:, ::1])
    return compile_cached(_darken, signature, parallel=False)


def shade(*arguments: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture ``[H, W, 3]`` in linear values, float32; the arguments are those of the kernel without ``image``."""
    image = np.zeros((*size, 3), np.float32)
    compiled_shade()(*arguments, image)
    return image
