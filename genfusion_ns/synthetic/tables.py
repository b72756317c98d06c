"""Objects on a table, in a room's corner or under the open sky."""

from __future__ import annotations

import math

import numpy as np
from trimesh.creation import box, cylinder

from genfusion_ns.synthetic.looks import daylight, surface
from genfusion_ns.synthetic.render import Scene, Thing
from genfusion_ns.synthetic.shapes import placed, quad, room
from genfusion_ns.synthetic.staging import Curve, Staged, around, forward, indoor_lamps, staged, sun
from genfusion_ns.synthetic.things import random_thing, scattered


def tables(seed: int) -> Staged:
    """4 to 14 objects on a table or a low podium."""
    rng = np.random.default_rng([seed, 0x7461])
    half = float(rng.uniform(0.45, 0.9)), float(rng.uniform(0.35, 0.6))
    top = float(rng.uniform(0.4, 0.9))
    things = _table(rng, half, top)
    places = scattered(rng, int(rng.integers(4, 15)), (half[0] - 0.1, half[1] - 0.1), 0.16)
    for x, y in places:
        size = float(np.exp(rng.uniform(np.log(0.1), np.log(0.38))))
        things.append(random_thing(rng, size, (float(x), float(y), top), lying=rng.random() < 0.15))
    if rng.random() < 0.7:
        side, tall = float(rng.uniform(3.6, 6.0)), float(rng.uniform(2.3, 3.2))
        shell, floor = room(side, side, tall), quad(side, side)
        things += [Thing(shell, surface(rng, side, 0.4)), Thing(floor, surface(rng, 1.5), placed(floor, (0, 0, 0.002)))]
        for _ in range(int(rng.integers(0, 5))):
            angle = rng.uniform(0, 2 * math.pi)
            reach = 0.42 * side
            at = reach * math.cos(angle), reach * math.sin(angle), 0.0
            things.append(random_thing(rng, float(rng.uniform(0.5, 1.4)), at))
        sky, below = (0.22, 0.22, 0.22), (0.15, 0.13, 0.12)
        scene = Scene(tuple(things), indoor_lamps(rng, (side / 2, side / 2), tall), sky, below)
        limit = 0.36 * side
    else:
        ground = quad(30.0, 30.0)
        things.append(Thing(ground, surface(rng, 3.0)))
        scene = Scene(tuple(things), (sun(rng, 3.0),), *daylight(rng))
        limit = 2.0
    return staged(rng, scene, _path(rng, top, half[0], limit), 1.0)


def _table(rng: np.random.Generator, half: tuple[float, float], top: float) -> list[Thing]:
    wood = surface(rng, 0.8, 0.1)
    if rng.random() < 0.4:
        podium = cylinder(radius=half[0] * 1.15, height=top, sections=64)
        return [Thing(podium, wood, placed(podium, (0, 0, 0)))]
    plate = box((2 * half[0], 2 * half[1], 0.04))
    leg = box((0.05, 0.05, top - 0.04))
    feet = [(x * (half[0] - 0.06), y * (half[1] - 0.06), 0.0) for x in (-1, 1) for y in (-1, 1)]
    things = [Thing(plate, wood, placed(plate, (0, 0, top - 0.04)), gloss=float(rng.choice([0.0, 0.08])))]
    return things + [Thing(leg, wood, placed(leg, at)) for at in feet]


def _path(rng: np.random.Generator, top: float, half: float, limit: float) -> tuple[Curve, Curve]:
    focus = np.array([0.0, 0.0, top + 0.1])
    near = min(half + 0.35, limit - 0.1)
    kind = rng.random()
    if kind < 0.65:
        sweep = (40, 150) if kind < 0.4 else (200, 340)
        return around(rng, focus, (near, limit), (0.15, 0.75), sweep)
    angle = rng.uniform(0, 2 * math.pi)
    radius = rng.uniform(near, limit)
    position = focus + [radius * math.cos(angle), radius * math.sin(angle), rng.uniform(0.15, 0.6)]
    return forward(rng, position, focus, float(rng.uniform(0.08, 0.3)))
