"""Solid textures: a texture maps object-space points [N, 3] (metres) to linear RGB albedo [N, 3] in [0, 1].

Everything is a pure function of the points and a seed. Being solid, they need no unwrapping and are the same from
every side. Detail has a scale of its own (`frequency`, periods per metre), so that a scene can hold several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

Array = NDArray[np.floating]
Texture = Callable[[Array], Array]
Field = Callable[[Array], Array]
"""Points [N, 3] to values [N]."""
Color = tuple[float, float, float]

_LATTICE = 32
_CELLS = 48


@lru_cache(maxsize=64)
def _lattice(seed: int) -> tuple[Array, Array]:
    """Random values on a periodic cube, and a random rotation that hides its axes."""
    rng = np.random.default_rng([seed, 0x6E6F])
    values = rng.random((_LATTICE,) * 3, dtype=np.float32)
    return values, Rotation.from_quat(rng.standard_normal(4)).as_matrix()


def value_noise(points: Array, seed: int, frequency: float) -> Array:
    """Smooth random values [N] in [0, 1]: lattice noise with smoothstep interpolation, `frequency` cells per metre."""
    values, rotation = _lattice(seed)
    local = points @ (rotation * frequency).T
    corner = np.floor(local)
    fraction = local - corner
    smooth = corner + fraction * fraction * (3.0 - 2.0 * fraction)
    return map_coordinates(values, smooth.T, order=1, mode="grid-wrap", prefilter=False)


def fractal_noise(points: Array, seed: int, frequency: float, octaves: int = 4, gain: float = 0.5) -> Array:
    """A sum of `octaves` noises, each twice as fine and `gain` times as strong as the one before; [N] in [0, 1]."""
    total = np.zeros(len(points))
    weight = 0.0
    for octave in range(octaves):
        amplitude = gain**octave
        total += amplitude * value_noise(points, seed * 131 + octave, frequency * 2.0**octave)
        weight += amplitude
    return total / weight


def fractal(seed: int, frequency: float, octaves: int = 4, gain: float = 0.5) -> Field:
    """`fractal_noise` as a field of its own."""
    return lambda points: fractal_noise(points, seed, frequency, octaves, gain)


def palette(seed: int, count: int, saturation: float = 0.7, value: float = 0.8) -> Array:
    """`count` distinct linear colours [count, 3]: hues spread evenly from a random start, saturation (at most
    `saturation`) and brightness (at most `value`) varied."""
    rng = np.random.default_rng([seed, 0x636F])
    hue = (rng.random() + np.arange(count) / count) % 1.0
    pale = 1.0 - saturation * rng.uniform(0.4, 1.0, (count, 1))
    bright = value * rng.uniform(0.4, 1.0, (count, 1))
    wheel = np.clip(np.abs((hue[:, None] * 6.0 + [0.0, 4.0, 2.0]) % 6.0 - 3.0) - 1.0, 0.0, 1.0)
    return bright * (pale + (1.0 - pale) * wheel) ** 2.2


def _mix(low: Sequence[float] | Array, high: Sequence[float] | Array, weight: Array) -> Array:
    return np.asarray(low) + (np.asarray(high) - np.asarray(low)) * weight[:, None]


def plain(color: Color) -> Texture:
    """One colour everywhere."""
    return lambda points: np.broadcast_to(np.asarray(color), (len(points), 3))


def mottled(low: Color, high: Color, seed: int, frequency: float, octaves: int = 4, gain: float = 0.6) -> Texture:
    """Plaster, stone, cloth: two colours mixed by fractal noise with its contrast stretched."""

    def texture(points: Array) -> Array:
        noise = fractal_noise(points, seed, frequency, octaves, gain)
        return _mix(low, high, np.clip((noise - 0.5) * 2.5 + 0.5, 0.0, 1.0))

    return texture


def grained(low: Color, high: Color, seed: int, frequency: float, axis: int = 0) -> Texture:
    """Wood: rings about an axis, bent by noise and stretched along the grain, with fine fibres."""
    stretch = np.where(np.arange(3) == axis, 0.15, 1.0)

    def texture(points: Array) -> Array:
        local = points * stretch
        bend = 1.5 * fractal_noise(local, seed, frequency * 0.5, 3)
        across = np.delete(local, axis, axis=1) - [0.11, -0.23]
        rings = 0.5 + 0.5 * np.sin(2.0 * np.pi * (frequency * np.linalg.norm(across, axis=1) + 2.0 * bend))
        fibres = value_noise(points * np.where(np.arange(3) == axis, 0.05, 1.0), seed + 7, frequency * 8.0)
        return _mix(low, high, 0.7 * rings + 0.3 * fibres)

    return texture


def veined(base: Color, vein: Color, seed: int, frequency: float) -> Texture:
    """Marble: thin dark ridges where two octaves of noise cross their mean."""

    def texture(points: Array) -> Array:
        ridge = 1.0 - np.abs(2.0 * fractal_noise(points, seed, frequency, 5) - 1.0)
        return _mix(base, vein, np.clip((ridge - 0.75) * 5.0, 0.0, 1.0))

    return texture


def tiled(
    colors: Array, size: Sequence[float], seed: int, joint: float = 0.06, mortar: Color = (0.1, 0.1, 0.1)
) -> Texture:
    """Tiles, bricks, books: a grid of boxes with sides `size` [3] (metres; 0 = endless), a random colour of `colors`
    [n, 3] each, and joints as wide as the share `joint` of a side."""
    sides = np.asarray(size, np.float64)
    live = sides > 0

    def texture(points: Array) -> Array:
        local = points[:, live] / sides[live]
        index = np.floor(local).astype(np.int64)
        draw = _hash(index, seed)
        color = colors[draw % len(colors)] * (0.8 + 0.2 * ((draw >> 20) % 1024 / 1024.0))[:, None]
        edge = np.minimum(local - index, 1.0 - (local - index)).min(axis=1)
        return np.where((edge < joint / 2)[:, None], np.asarray(mortar), color)

    return texture


def _hash(index: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A well mixed non-negative integer [N] per row of `index` [N, d]."""
    mixed = np.full(len(index), np.uint64(seed * 2 + 1), np.uint64)
    for column in index.T.astype(np.uint64):
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(2)).astype(np.int64)


@lru_cache(maxsize=16)
def _seeds(seed: int) -> KDTree:
    return KDTree(np.random.default_rng([seed, 0x7665]).random((_CELLS, 3)), boxsize=1.0)


def cells(
    colors: Array, seed: int, frequency: float, border: float = 0.05, line: Color = (0.02, 0.02, 0.02)
) -> Texture:
    """Stained glass, terrazzo: the Voronoi cells of random points (about 3.6 per period and axis), one colour each,
    with borders of relative width `border`. Rich in corners, which feature matchers like."""
    tree = _seeds(seed)

    def texture(points: Array) -> Array:
        distance, nearest = tree.query((points * frequency) % 1.0, k=2)
        color = colors[_hash(np.asarray(nearest, np.int64)[:, :1], seed) % len(colors)]
        thin = distance[:, 1] - distance[:, 0] < border / _CELLS ** (1 / 3)
        return np.where(thin[:, None], np.asarray(line), color)

    return texture


def layered(below: Texture, above: Texture, cover: Field) -> Texture:
    """`above` laid over `below` where the field `cover` (clipped to [0, 1]) says so."""

    def texture(points: Array) -> Array:
        weight = np.clip(cover(points), 0.0, 1.0)[:, None]
        return below(points) * (1.0 - weight) + above(points) * weight

    return texture


def dirtied(texture: Texture, seed: int, frequency: float, amount: float = 0.5) -> Texture:
    """The texture darkened by fractal noise: a second, finer scale of detail on anything."""
    return lambda points: texture(points) * (1.0 - amount * fractal_noise(points, seed, frequency, 3, 0.7))[:, None]
