"""Heaps: dozens of things of all sizes lying about."""

from __future__ import annotations

import math

import numpy as np

from genfusion_ns.synthetic.looks import daylight, surface
from genfusion_ns.synthetic.render import Scene, Thing
from genfusion_ns.synthetic.shapes import placed, quad, room
from genfusion_ns.synthetic.staging import Staged, around, forward, indoor_lamps, staged, sun
from genfusion_ns.synthetic.things import random_thing


def clutter(seed: int) -> Staged:
    """20 to 60 things on and over each other, on open ground or in a bare room."""
    rng = np.random.default_rng([seed, 0x636C])
    radius = float(rng.uniform(0.6, 1.2))
    things: list[Thing] = []
    for _ in range(int(rng.integers(20, 60))):
        size = float(np.exp(rng.uniform(np.log(0.12), np.log(0.7))))
        angle, reach = rng.uniform(0, 2 * math.pi), radius * math.sqrt(rng.random())
        # the middle of the heap is higher
        above = max(0.0, rng.uniform(-0.3, 0.6) * (radius - reach))
        at = reach * math.cos(angle), reach * math.sin(angle), above
        things.append(random_thing(rng, size, at, lying=rng.random() < 0.7))
    if rng.random() < 0.5:
        side, tall = float(rng.uniform(5.0, 7.0)), float(rng.uniform(2.4, 3.2))
        shell, floor = room(side, side, tall), quad(side, side)
        things += [Thing(shell, surface(rng, side, 0.5)), Thing(floor, surface(rng, 1.5), placed(floor, (0, 0, 0.002)))]
        scene = Scene(tuple(things), indoor_lamps(rng, (1.5, 1.5), tall), (0.22, 0.22, 0.22), (0.15, 0.13, 0.12))
        limit = side / 2 - 0.3
    else:
        ground = quad(30.0, 30.0)
        scene = Scene((*things, Thing(ground, surface(rng, 2.0))), (sun(rng, 3.0),), *daylight(rng))
        limit = 3.0
    focus = np.array([0.0, 0.0, 0.3])
    if rng.random() < 0.75:
        near = min(radius + 0.6, limit - 0.3)
        curves = around(rng, focus, (near, limit), (0.3, 1.4), (40, 320))
    else:
        angle = rng.uniform(0, 2 * math.pi)
        position = focus + [limit * math.cos(angle), limit * math.sin(angle), rng.uniform(0.4, 1.2)]
        curves = forward(rng, position, focus, float(rng.uniform(0.15, 0.5)))
    return staged(rng, scene, curves, 1.5)
