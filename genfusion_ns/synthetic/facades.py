"""A street: façades with windows, doors and balconies, and what stands before them."""

from __future__ import annotations

import numpy as np
import trimesh
from trimesh.creation import box, cylinder, icosphere

from genfusion_ns.synthetic import textures as tx
from genfusion_ns.synthetic.looks import daylight, foliage, muted, surface
from genfusion_ns.synthetic.render import Scene, Thing
from genfusion_ns.synthetic.shapes import bumpy, placed, quad
from genfusion_ns.synthetic.staging import Curve, Staged, around, forward, staged, sun, walk
from genfusion_ns.synthetic.things import random_thing


def facades(seed: int) -> Staged:
    """Three to six houses side by side along x, facing -y, with a pavement and a road before them."""
    rng = np.random.default_rng([seed, 0x6661])
    things = _ground(rng)
    left = -12.0
    while left < 12.0:
        width = float(rng.uniform(4.0, 8.0))
        things += _house(rng, left + width / 2, width)
        left += width
    things += _street(rng)
    scene = Scene(tuple(things), (sun(rng, 12.0),), *daylight(rng))
    return staged(rng, scene, _path(rng), 6.0)


def _ground(rng: np.random.Generator) -> list[Thing]:
    road, pavement = quad(80.0, 80.0), box((40.0, 3.0, 0.15))
    return [
        Thing(road, surface(rng, 2.5, 0.3)),
        Thing(pavement, surface(rng, 1.5, 0.2), placed(pavement, (0, -1.5, 0))),
    ]


def _house(rng: np.random.Generator, middle: float, width: float) -> list[Thing]:
    """One house: a wall with rows of windows in frames, a door, a ledge and a roof."""
    floors, storey = int(rng.integers(2, 5)), float(rng.uniform(2.6, 3.3))
    tall, setback = floors * storey + 0.6, float(rng.choice([0.0, 0.0, 0.4, 1.0]))
    body = box((width, 6.0, tall))
    things = [Thing(body, surface(rng, 2.5, 0.25), placed(body, (middle, 3.0 + setback, 0)))]
    count = int(rng.integers(2, 1 + max(3, int(width / 1.5))))
    look, glass = surface(rng, 0.8, 0.6), _glass(rng)
    sill = tx.plain(muted(rng, 0.3, 0.8))
    sides = 0.55 * width / count, float(rng.uniform(1.1, 1.8))
    door = int(rng.integers(count))
    for floor in range(floors):
        for column in range(count):
            x = middle + width * ((column + 0.5) / count - 0.5)
            if floor == 0 and column == door:
                things += _slab(rng, (x, setback, 0.1), (max(sides[0], 0.9), 0.1, 2.2), surface(rng, 0.8, 0.3))
                continue
            z = floor * storey + 0.9
            things += _slab(rng, (x, setback, z - 0.08), (sides[0] + 0.2, 0.1, sides[1] + 0.16), look)
            things += _slab(rng, (x, setback, z), (sides[0], 0.14, sides[1]), glass)
            things += _slab(rng, (x, setback, z - 0.14), (sides[0] + 0.3, 0.4, 0.08), sill)
            if floor > 0 and rng.random() < 0.15:
                things += _slab(rng, (x, setback, z - 0.3), (sides[0] + 0.5, 1.4, 0.12), look)
                things += _slab(rng, (x, setback - 0.65, z - 0.2), (sides[0] + 0.5, 0.08, 0.8), surface(rng, 0.5, 0.2))
    things += _slab(rng, (middle, setback, tall - 0.3), (width, 0.5, 0.3), sill)
    return things


def _glass(rng: np.random.Generator) -> tx.Texture:
    """Panes: dark or bright glass behind a grid of bars."""
    dark = muted(rng, 0.02, 0.2)
    panes = tx.tiled(
        np.array([dark, muted(rng, 0.05, 0.5)]), (0.4, 0, 0.5), int(rng.integers(2**31)), 0.12, muted(rng, 0.3, 0.9)
    )
    return tx.dirtied(panes, int(rng.integers(2**31)), 1.5, 0.5)


def _slab(
    rng: np.random.Generator, at: tuple[float, float, float], sides: tuple[float, float, float], look: tx.Texture
) -> list[Thing]:
    del rng
    mesh = box(sides)
    return [Thing(mesh, look, placed(mesh, at))]


def _street(rng: np.random.Generator) -> list[Thing]:
    """Lamp posts, trees, cars, and bins and crates."""
    things: list[Thing] = []
    for _ in range(int(rng.integers(2, 8))):
        x, kind = float(rng.uniform(-10, 10)), rng.random()
        if kind < 0.25:
            post = cylinder(radius=0.07, height=4.0, sections=16)
            things.append(Thing(post, tx.plain(muted(rng, 0.03, 0.2)), placed(post, (x, -2.6, 0)), smooth=True))
        elif kind < 0.5:
            things += _street_tree(rng, x)
        elif kind < 0.75:
            things += _car(rng, x)
        else:
            at = (x, float(rng.uniform(-2.6, -0.7)), 0.15)
            things.append(random_thing(rng, float(rng.uniform(0.6, 1.4)), at))
    return things


def _street_tree(rng: np.random.Generator, x: float) -> list[Thing]:
    trunk = cylinder(radius=0.12, height=2.2, sections=16)
    ball = icosphere(subdivisions=4, radius=1.1)
    crown = bumpy(ball, 0.9, tx.fractal(int(rng.integers(2**31)), 2.0, 4))
    bark = tx.mottled(muted(rng, 0.04, 0.2), muted(rng, 0.1, 0.4), int(rng.integers(2**31)), 6.0)
    return [
        Thing(trunk, bark, placed(trunk, (x, -2.3, 0)), smooth=True),
        Thing(crown, foliage(rng), placed(crown, (x, -2.3, 1.7)), smooth=True),
    ]


def _car(rng: np.random.Generator, x: float) -> list[Thing]:
    paint = tx.dirtied(tx.plain(muted(rng, 0.1, 0.7)), int(rng.integers(2**31)), 2.0, 0.3)
    y = float(rng.uniform(-5.5, -4.2))
    body, cabin = box((4.0, 1.7, 0.7)), box((2.2, 1.5, 0.6))
    wheel = cylinder(radius=0.32, height=0.2, sections=24)
    wheel.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0]))
    things = [
        Thing(body, paint, placed(body, (x, y, 0.3)), gloss=0.15),
        Thing(cabin, _glass(rng), placed(cabin, (x - 0.2, y, 1.0)), gloss=0.2),
    ]
    rubber = tx.plain((0.02, 0.02, 0.02))
    return things + [Thing(wheel, rubber, placed(wheel, (x + dx, y - 0.8, 0)), smooth=True) for dx in (-1.3, 1.3)]


def _path(rng: np.random.Generator) -> tuple[Curve, Curve]:
    """Along the other side of the road, an arc before one house, a stand, or along the pavement."""
    eye, kind, x = float(rng.uniform(1.4, 2.6)), rng.random(), float(rng.uniform(-3, 3))
    focus = np.array([x, 0.5, float(rng.uniform(1.5, 3.0))])
    away = -float(rng.uniform(7.0, 10.0))
    if kind < 0.4:
        start, end = np.array([x - rng.uniform(2, 6), away, eye]), np.array([x + rng.uniform(2, 6), away, eye])
        return walk(rng, start, end, focus, float(rng.uniform(0.2, 1.0)))
    if kind < 0.65:
        low = eye - focus[2]
        return around(rng, focus, (7.0, 10.0), (low, low + 1.0), (40, 110), start=-np.pi / 2)
    if kind < 0.8:
        return forward(rng, np.array([x, away, eye]), focus, float(rng.uniform(0.4, 1.5)))
    start, end = np.array([x - 6.0, -7.5, eye]), np.array([x - 1.5, -7.0, eye])
    return walk(rng, start, end, np.array([x + 5.0, -1.0, 2.0]), float(rng.uniform(0.0, 0.6)))
