"""What surfaces look like, compiled: the linear colour of a point of a thing."""

# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math

from effcli.detect_stream.data.value_noise import HELPER, noise

# Numbers of Material, as constants that numba can see.
_GROUND, _PAINT, _DARK, _BRICK, _FACADE, _TILES, _FOLIAGE, _CLOTH, _SIGN, _LAMP, _HILL = (
    0,
    2,
    4,
    5,
    6,
    7,
    8,
    10,
    11,
    12,
    13,
)


@HELPER
def fractal(table, x, y, footprint, rough):
    """Waves of 4 cm to 1.6 m, about -1..1; those finer than two pixels are left out. ``rough`` weights fine ones."""
    total, weight, wavelength = 0.0, 1.0, 1.6
    for octave in range(5):
        seen = min(1.0, max(0.0, wavelength / (1.5 * footprint) - 0.5))
        if seen <= 0.0:
            break
        total += weight * seen * noise(table, x / wavelength + 17.3 * octave, y / wavelength + 5.1 * octave)
        weight *= rough
        wavelength *= 0.4
    return total


@HELPER
def _line(distance, half, footprint):
    """How much of a pixel a line covers, from the distance of its middle to the line's."""
    soft = max(footprint, 1e-3)
    return min(1.0, max(0.0, (half - abs(distance)) / soft + 0.5))


@HELPER
def _cells(value, size):
    """Distance to the next multiple of a size."""
    return (value / size - math.floor(value / size + 0.5)) * size


@HELPER
def _ground(x, z, road, table, footprint):
    """Asphalt with patches, cracks and marks; kerbs and slabs; grass or gravel."""
    radius = road[0]
    side = 1.0 if radius > 0 else -1.0
    s = radius - side * math.hypot(radius - x, z)
    d = radius * math.atan2(side * z, side * (radius - x))
    beside = abs(s) - road[1]
    slant = footprint * 2.5
    if beside < 0:
        grain = fractal(table, d, s, slant, 0.9)
        value = road[3] * (1.0 + road[4] * grain)
        worn = noise(table, d * 0.06 + 11.0, s * 0.45)
        value *= 1.0 + road[12] * worn
        if noise(table, d * 0.031 + 3.0, math.floor(s * 0.5) * 7.7) > 0.72:
            value *= 0.55
        crack = abs(noise(table, d * 0.35, s * 0.35 + 41.0) + 0.4 * noise(table, d * 1.7, s * 1.7))
        value *= 1.0 - 0.55 * road[5] * _line(crack * 1.5, 0.02, slant)
        mark = 0.0
        if road[6] > 0:
            dash = 1.0 if math.floor(d / 6.0) - 2 * math.floor(d / 12.0) == 0 else 0.0
            mark = max(
                dash * _line(s, 0.07, footprint), _line(beside + road[9], 0.07, footprint) * (road[7] > 0.4)
            )
            if road[11] > 0 and abs(d - road[11]) < 2.0:
                mark = max(mark, _line(_cells(s, 1.0), 0.25, footprint))
            mark *= min(1.0, max(0.0, 0.8 + 0.7 * grain)) * road[6]
        value = value * (1 - mark) + 0.6 * mark
        return value, value, value * 1.02
    if beside < road[2]:
        stone = 0.19 + 0.1 * road[8]
        gap = max(_line(_cells(d, 0.5), 0.012, slant), _line(_cells(beside, 0.5), 0.012, slant))
        value = stone * (1.0 + 0.3 * fractal(table, d + 50.0, s, slant, 0.85)) * (1 - 0.4 * gap)
        if beside < 0.15:
            value = 0.28 * (1.0 + 0.2 * fractal(table, d, s, slant, 0.8))
        return value, value * 0.97, value * 0.92
    grass = fractal(table, d, s, slant, 0.95)
    value = max(0.15, 1.0 + 0.7 * grass)
    if road[7] > 0.25 or noise(table, d * 0.1, s * 0.1) > 0.3:
        return 0.055 * value, 0.085 * value, 0.02 * value
    return 0.2 * value, 0.17 * value, 0.12 * value


@HELPER
def _facade(r, g, b, s, t, thing, table, footprint):
    """Plaster with storeys of windows, some of them bright with sky."""
    wall = 1.0 + thing[15] * fractal(table, s + thing[16], t + thing[17], footprint, 0.7)
    wall *= 1.0 + 0.3 * noise(table, s * 0.25 + thing[16], t * 0.12)
    storey, pitch = 2.6 + 0.5 * thing[18], 1.7 + 2.0 * thing[19]
    column, row = s / pitch, (t - 1.0) / storey
    u, v = _cells(s, pitch), (row - math.floor(row)) * storey - 0.55 * storey
    half_u, half_v = 0.26 * pitch, 0.26 * storey
    pane = min(_line(u, half_u, footprint), _line(v, half_v, footprint))
    frame = min(_line(u, half_u + 0.12, footprint), _line(v, half_v + 0.12, footprint))
    key = noise(table, math.floor(column + 0.5) * 13.0 + thing[16], math.floor(row) * 7.0 + thing[17])
    glass = 0.012 + 0.5 * max(0.0, key - 0.35)
    bar = max(_line(u, 0.035, footprint), _line(v - 0.3 * half_v, 0.03, footprint))
    light = 0.5 if thing[20] > 0.4 else 0.08
    if t < 0.6:
        pane, frame, wall = 0.0, 0.0, wall * 0.7
    r, g, b = r * wall, g * wall, b * wall
    r, g, b = r + (light - r) * frame, g + (light - g) * frame, b + (light - b) * frame
    glass = glass + (light - glass) * bar
    return r + (glass - r) * pane, g + (glass - g) * pane, b + (glass * 1.1 - b) * pane


@HELPER
def _in_courses(s, t, wide, high, gap, footprint):
    """How much of a pixel is mortar between bricks, laid with a half step."""
    row = math.floor(t / high)
    shifted = s + 0.5 * wide * (row - 2 * math.floor(row / 2))
    return max(_line(_cells(shifted, wide), gap, footprint), _line(_cells(t, high), gap, footprint))


@HELPER
def _worn(material, s, t, a, b_, c, thing, table, footprint):
    """The factor of materials that have one colour."""
    x, y = s + thing[16], t + thing[17]
    if material == _FOLIAGE:
        leaf = fractal(table, a * 1.3 + c + thing[16], b_ * 1.3 + 0.7 * c + thing[17], footprint, 1.05)
        return max(0.1, 1.0 + 1.3 * leaf)
    if material == _CLOTH:
        return max(0.2, 1.0 + thing[15] * fractal(table, a + c + x, b_ + 0.6 * c + y, footprint * 0.7, 0.95))
    if material == _BRICK:
        key = noise(table, math.floor(s / 0.24) * 5.3, math.floor(t / 0.08) * 3.1)
        value = 1.0 + 0.35 * key * min(1.0, 0.08 / footprint) + 0.25 * fractal(table, x, y, footprint, 0.6)
        return value * (1 - 0.35 * _in_courses(s, t, 0.24, 0.08, 0.006, footprint))
    if material == _TILES:
        value = 1.0 + 0.3 * fractal(table, x, y, footprint, 0.8)
        return value * (1 - 0.5 * _in_courses(s, t, 0.3, 0.35, 0.03, footprint))
    if material == _PAINT:
        return (1.0 + 0.06 * fractal(table, x, y, footprint, 0.7)) * (0.75 if b_ < 0.45 else 1.0)
    if material == _SIGN:
        blot = noise(table, x * 9.0, y * 9.0) > 0.35 and footprint < 0.08
        return 0.25 if blot else 1.0
    if material == _LAMP:
        return 1.0
    if material == _HILL:
        return max(0.3, 1.0 + 0.6 * fractal(table, x * 0.05, y * 0.05, footprint * 0.05, 0.8))
    return max(0.2, 1.0 + thing[15] * fractal(table, x, y, footprint, 0.75))


@HELPER
def colour_of(material, colour, x, y, z, nx, ny, nz, thing, road, table, footprint):
    """The linear colour of a point of the world on a thing (``things`` of the town's renderer), with its normal."""
    if material == _GROUND and road[10] > 0:
        return _ground(x, z, road, table, footprint)
    px, py, pz = x - thing[0], y - thing[1], z - thing[2]
    a = thing[3] * px + thing[4] * py + thing[5] * pz
    b = thing[6] * px + thing[7] * py + thing[8] * pz
    c = thing[9] * px + thing[10] * py + thing[11] * pz
    ends = abs(nx * thing[3] + ny * thing[4] + nz * thing[5])
    top = abs(nx * thing[6] + ny * thing[7] + nz * thing[8])
    side = abs(nx * thing[9] + ny * thing[10] + nz * thing[11])
    s, t = a, c
    if top < 0.75:
        s, t = (c, b) if ends > side else (a, b)
    if material == _TILES:
        s, t = a, b * 1.3
    if road[10] <= 0:
        value = 1.0 + 0.5 * fractal(table, s + thing[16], t + thing[17], footprint, 0.9)
        return colour[0] * value, colour[1] * value, colour[2] * value
    if material == _FACADE and top < 0.75:
        return _facade(colour[0], colour[1], colour[2], s, t, thing, table, footprint)
    value = _worn(material, s, t, a, b, c, thing, table, footprint)
    return colour[0] * value, colour[1] * value, colour[2] * value
