"""Random looks: colours as photos have them (mostly muted), and surfaces with detail at the scale of their thing."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

from genfusion_ns.synthetic import textures as tx

Array = NDArray[np.floating]


# mottled, grained, veined, tiled, cells, stripes, blotches
_MATERIAL_ODDS = (0.27, 0.16, 0.13, 0.17, 0.06, 0.09, 0.12)


def muted(rng: np.random.Generator, low: float = 0.06, high: float = 0.75) -> tx.Color:
    """A linear RGB colour of brightness `low` to `high`; warm greys and browns are common, pure colours rare."""
    vivid = rng.random() < 0.08
    saturation = rng.uniform(0.45, 0.8) if vivid else float(rng.beta(1.5, 5.5))
    hue = float(rng.normal(0.09, 0.06) % 1.0) if rng.random() < 0.45 else float(rng.random())
    rgb = np.array(colorsys.hsv_to_rgb(hue, saturation, 1.0)) ** 1.8
    red, green, blue = (rgb * low * (high / low) ** rng.random()).tolist()
    return red, green, blue


def shade(color: tx.Color, factor: float) -> tx.Color:
    """A lighter or darker colour, at most 0.95 in each channel."""
    red, green, blue = (min(0.95, max(0.0, channel * factor)) for channel in color)
    return red, green, blue


def tones(rng: np.random.Generator, count: int, variety: float = 0.5) -> Array:
    """`count` colours [count, 3]: shades of one colour, the share `variety` of them other colours."""
    base = muted(rng)
    drawn = [muted(rng) if rng.random() < variety else shade(base, rng.uniform(0.5, 1.6)) for _ in range(count)]
    return np.array(drawn)


def foliage(rng: np.random.Generator) -> tx.Texture:
    """Leaves: speckles in shades of one green, now and then of autumn."""
    hue = rng.uniform(0.02, 0.15) if rng.random() < 0.2 else rng.uniform(0.17, 0.38)
    base = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.25, 0.65), 1.0)) ** 1.8 * rng.uniform(0.1, 0.45)
    seed = int(rng.integers(2**31))
    shades = base * rng.uniform(0.4, 1.6, (6, 1))
    speckled = tx.cells(np.clip(shades, 0.0, 0.9), seed, rng.uniform(2.0, 6.0), 0.0)
    return tx.dirtied(speckled, seed + 1, 9.0, 0.6)


def surface(rng: np.random.Generator, size: float, plainness: float = 0.2) -> tx.Texture:
    """A random material for a thing of `size` metres: `plainness` is the chance that it has next to no texture."""
    seed = int(rng.integers(2**31))
    # periods over the thing, spread over scales
    frequency = float(np.exp(rng.uniform(np.log(2.0), np.log(14.0)))) / size
    base = muted(rng)
    if rng.random() < plainness:
        return tx.mottled(shade(base, 0.93), shade(base, 1.05), seed, frequency, octaves=2)
    other = muted(rng) if rng.random() < 0.5 else shade(base, rng.uniform(0.3, 0.7))
    kind = int(rng.choice(7, p=_MATERIAL_ODDS))
    if kind == 0:
        look = tx.mottled(base, other, seed, frequency, octaves=5, gain=rng.uniform(0.5, 0.8))
    elif kind == 1:
        look = tx.grained(base, other, seed, frequency, axis=int(rng.integers(3)))
    elif kind == 2:
        look = tx.veined(base, other, seed, frequency)
    elif kind == 3:
        sides = size / rng.uniform(3, 16) * rng.uniform(0.5, 2.0, 3)
        look = tx.tiled(tones(rng, 5, 0.3), sides.tolist(), seed, rng.uniform(0.02, 0.14), shade(base, 0.5))
    elif kind == 4:
        look = tx.cells(tones(rng, 6), seed, frequency * 0.3, rng.uniform(0.0, 0.1), shade(base, 0.4))
    elif kind == 5:
        look = stripes(rng, size)
    else:
        look = patterned(rng, size)
    if rng.random() < 0.7:
        look = tx.dirtied(look, seed + 1, frequency * rng.uniform(3, 8), rng.uniform(0.15, 0.6))
    return look


def stripes(rng: np.random.Generator, size: float) -> tx.Texture:
    """Parallel bands along a random one of the axes, as on cloth and corrugated metal."""
    axis, period = int(rng.integers(3)), size / rng.uniform(4, 24)
    low, high, sharp = np.array(muted(rng)), np.array(muted(rng)), rng.uniform(1.0, 8.0)

    def texture(points: Array) -> Array:
        wave = 0.5 + 0.5 * np.clip(sharp * np.sin(2 * np.pi * points[:, axis] / period), -1, 1)
        return low + (high - low) * wave[:, None]

    return texture


def patterned(rng: np.random.Generator, size: float) -> tx.Texture:
    """One material spread in blotches over another."""
    seed = int(rng.integers(2**31))
    frequency = rng.uniform(1.5, 6.0) / size
    below = tx.mottled(muted(rng), muted(rng), seed, frequency * 3, octaves=5, gain=0.7)
    if rng.random() < 0.3:
        above = tx.cells(tones(rng, 5), seed + 1, frequency, 0.06)
    else:
        above = tx.mottled(muted(rng), muted(rng), seed + 1, frequency * rng.uniform(1, 8), octaves=5, gain=0.7)
    edge, cut = rng.uniform(3, 30), rng.uniform(0.42, 0.58)
    return tx.layered(below, above, lambda points: edge * (tx.fractal_noise(points, seed + 2, frequency, 4) - cut))


def daylight(rng: np.random.Generator) -> tuple[tx.Color, tx.Color]:
    """Linear colours of sky and ground light: clear blue, overcast white, or a warm evening."""
    strength = float(np.exp(rng.uniform(np.log(0.25), np.log(0.75))))
    sky = [(0.45, 0.68, 1.0), (0.9, 0.95, 1.0), (1.0, 0.78, 0.6), (0.65, 0.75, 0.85)][int(rng.integers(4))]
    return shade(sky, strength), shade((0.6, 0.5, 0.4), 0.6 * strength)
