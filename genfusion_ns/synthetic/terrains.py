"""Open country: hills of fractal noise with trees and rocks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from trimesh.creation import cone, cylinder, icosphere

from genfusion_ns.synthetic import textures as tx
from genfusion_ns.synthetic.looks import daylight, foliage, muted, shade, surface
from genfusion_ns.synthetic.render import Scene, Thing
from genfusion_ns.synthetic.shapes import bumpy, placed, terrain
from genfusion_ns.synthetic.staging import Curve, Staged, around, forward, staged, sun, walk

Array = NDArray[np.floating]

_SIDE = 40.0
_CELLS = 160


def terrains(seed: int) -> Staged:
    """A hilly square of 40 m, filmed from a walker's height or from the air."""
    rng = np.random.default_rng([seed, 0x7465])
    noise, rough = int(rng.integers(2**31)), float(rng.uniform(1.5, 6.0))
    frequency = float(rng.uniform(0.05, 0.12))

    def height(xy: Array) -> Array:
        points = np.column_stack([xy, np.zeros(len(xy))])
        return rough * (tx.fractal_noise(points, noise, frequency, 5, 0.45) - 0.5) * 2.0

    hills = terrain(_SIDE, _CELLS, height)
    things = [Thing(hills, _ground(rng, rough), smooth=True)]
    curves = _path(rng, height)
    places = _clear_of(curves[0], rng.uniform(-0.4, 0.4, (int(rng.integers(15, 70)), 2)) * _SIDE)
    for (x, y), z in zip(places, height(places), strict=True):
        at = float(x), float(y), float(z) - 0.1
        things += _tree(rng, at) if rng.random() < 0.5 else [_rock(rng, at)]
    scene = Scene(tuple(things), (sun(rng, _SIDE / 2),), *daylight(rng))
    return staged(rng, scene, curves, 4.0)


def _clear_of(positions: Curve, places: Array, least: float = 3.0) -> Array:
    """Those of the places [n, 2] that lie `least` metres and more away from the camera's way."""
    way = positions(np.linspace(0.0, 1.0, 40))[:, :2]
    return places[np.linalg.norm(places[:, None] - way, axis=-1).min(axis=1) >= least]


def _ground(rng: np.random.Generator, rough: float) -> tx.Texture:
    """Grass or sand below, rock or snow above, blotched at several scales."""
    seed = int(rng.integers(2**31))
    low, high = muted(rng, 0.05, 0.35), muted(rng, 0.2, 0.8)
    below = tx.mottled(shade(low, 0.6), low, seed, 1.5, 6, 0.75)
    above = tx.mottled(shade(high, 0.5), high, seed + 1, 1.0, 6, 0.75)
    level, edge = rough * rng.uniform(-0.3, 0.3), rng.uniform(1.0, 4.0)

    def cover(points: Array) -> Array:
        return edge * (points[:, 2] - level) + 6.0 * (tx.fractal_noise(points, seed + 2, 0.5, 4) - 0.5)

    return tx.dirtied(tx.layered(below, above, cover), seed + 3, 6.0, 0.4)


def _tree(rng: np.random.Generator, at: tuple[float, float, float]) -> list[Thing]:
    tall, seed = float(rng.uniform(1.2, 3.5)), int(rng.integers(2**31))
    trunk = cylinder(radius=0.04 * tall, height=0.4 * tall, sections=12)
    crown = (
        cone(radius=0.25 * tall, height=0.8 * tall, sections=24)
        if rng.random() < 0.5
        else bumpy(icosphere(subdivisions=3, radius=0.3 * tall), 0.3 * tall, tx.fractal(seed, 3.0 / tall, 4))
    )
    bark = tx.plain(muted(rng, 0.04, 0.2))
    return [
        Thing(trunk, bark, placed(trunk, at), smooth=True),
        Thing(crown, foliage(rng), placed(crown, (at[0], at[1], at[2] + 0.3 * tall)), smooth=True),
    ]


def _rock(rng: np.random.Generator, at: tuple[float, float, float]) -> Thing:
    size = float(np.exp(rng.uniform(np.log(0.3), np.log(1.6))))
    mesh = bumpy(
        icosphere(subdivisions=4, radius=0.4 * size), 0.4 * size, tx.fractal(int(rng.integers(2**31)), 3 / size)
    )
    return Thing(mesh, surface(rng, size, 0.1), placed(mesh, at, turn=rng.uniform(0, 6.28)), smooth=True)


def _path(rng: np.random.Generator, height) -> tuple[Curve, Curve]:
    """An arc or flight above the hills about a low point's surroundings, or a walk; always over the ground."""
    x, y = rng.uniform(-6, 6, 2)
    base = np.array([x, y, float(height(np.array([[x, y]]))[0])])
    kind = rng.random()
    if kind < 0.5:
        curves = around(rng, base, (7.0, 12.0), (2.0, 6.0), (40, 200))
    elif kind < 0.8:
        angle = rng.uniform(0, 2 * math.pi)
        way = np.array([math.cos(angle), math.sin(angle), 0.0])
        side = np.array([-way[1], way[0], 0.0])
        start = base - 8 * side - way * rng.uniform(2, 5) + [0, 0, 3.0]
        curves = walk(rng, start, start + way * rng.uniform(4, 10), base, float(rng.uniform(0.0, 0.8)))
    else:
        angle = rng.uniform(0, 2 * math.pi)
        stand = base + [9 * math.cos(angle), 9 * math.sin(angle), 3.0]
        curves = forward(rng, stand, base, float(rng.uniform(0.4, 1.5)))
    positions, targets = curves

    def lifted(along: Array) -> Array:
        points = positions(along)
        clearance = points[:, 2] - height(points[:, :2])
        return points + np.outer(np.full(len(points), max(0.0, 1.5 - float(clearance.min()))), [0, 0, 1.0])

    return lifted, targets
