"""A family's scene together with the way it is filmed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from genfusion_ns.cameras import Camera
from genfusion_ns.synthetic.poses import cameras_along, hand_held
from genfusion_ns.synthetic.render import Lamp, Scene, Studio

Array = NDArray[np.floating]
Curve = Callable[[Array], Array]
"""Path parameters [n] in [0, 1] to points [n, 3]."""


@dataclass(frozen=True)
class Staged:
    """A scene and its camera path, of which any number of frames can be taken."""

    scene: Scene
    positions: Curve
    """Where the camera is."""
    targets: Curve
    """What it looks at."""
    fov: float
    """Horizontal field of view in degrees."""
    shake: float
    """How far the hand that holds the camera wanders, in metres."""
    seed: int
    """Of the hand."""

    def cameras(self, count: int, width: int, height: int) -> list[Camera]:
        """`count` views along the path."""
        along = np.linspace(0.0, 1.0, count)
        positions = hand_held(self.positions(along), self.shake, self.seed, sway=2.0)
        targets = hand_held(self.targets(along), self.shake, self.seed + 1, sway=2.0)
        return cameras_along(positions, targets, width, height, self.fov)


def staged(rng: np.random.Generator, scene: Scene, curves: tuple[Curve, Curve], scale: float) -> Staged:
    """Film `scene` along `curves` with a random lens and exposure; `scale` is a usual distance in metres."""
    fov = float(rng.uniform(45, 75))
    filmed = Staged(scene, *curves, fov, scale * float(rng.uniform(0.01, 0.05)), int(rng.integers(2**31)))
    return exposed(filmed, float(np.exp(rng.uniform(np.log(0.07), np.log(0.3)))))


def around(
    rng: np.random.Generator,
    focus: Array,
    radius: tuple[float, float],
    height: tuple[float, float],
    sweep: tuple[float, float],
    start: float | None = None,
) -> tuple[Curve, Curve]:
    """An arc or orbit about `focus`: radius and height (over the focus) change smoothly within their bounds; `sweep`
    bounds its angle in degrees, `start` is the heading of its middle in radians (None = any)."""
    turn = math.radians(rng.uniform(*sweep)) * rng.choice([-1.0, 1.0])
    middle = rng.uniform(0, 2 * math.pi) if start is None else start
    ends = rng.uniform(*radius, 2), rng.uniform(*height, 2)
    aim = 0.15 * min(radius) * rng.uniform(-1, 1, 3)

    def positions(along: Array) -> Array:
        angle = middle + turn * (along - 0.5)
        r, h = (low + (high - low) * _ease(along) for low, high in ends)
        return np.asarray(focus) + np.stack([r * np.cos(angle), r * np.sin(angle), h], -1)

    return positions, lambda along: np.asarray(focus) + np.outer(along - 0.5, aim)


def forward(rng: np.random.Generator, position: Array, target: Array, baseline: float) -> tuple[Curve, Curve]:
    """A forward-facing capture: the camera sways sideways and up on a small loop about `position`."""
    ahead = np.asarray(target) - position
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, ahead)
    up /= np.linalg.norm(up)
    cycles, phase = rng.uniform(0.4, 1.3), rng.uniform(0, 2 * math.pi)
    tall = rng.uniform(0.2, 0.7)

    def positions(along: Array) -> Array:
        across = baseline * np.cos(phase + math.pi * cycles * along)
        above = tall * baseline * np.sin(1.7 * phase + 2 * math.pi * cycles * along)
        return position + across[:, None] * right + above[:, None] * up

    return positions, lambda along: np.repeat(np.asarray(target, float)[None], len(along), 0)


def walk(rng: np.random.Generator, start: Array, end: Array, target: Array, follow: float) -> tuple[Curve, Curve]:
    """A walk from `start` to `end` (metres); the gaze rests on `target` (`follow` = 0), or moves along (1)."""
    way = np.asarray(end, float) - start
    bend = 0.06 * float(np.linalg.norm(way)) * rng.uniform(-1, 1)
    side = np.array([-way[1], way[0], 0.0]) / max(float(np.linalg.norm(way[:2])), 1e-9)

    def positions(along: Array) -> Array:
        return start + np.outer(along, way) + np.outer(np.sin(math.pi * along), bend * side)

    return positions, lambda along: np.asarray(target) + np.outer(follow * (along - 0.5), way)


def indoor_lamps(rng: np.random.Generator, half: tuple[float, float], height: float) -> tuple[Lamp, ...]:
    """One to three lamps near the ceiling of a room; together about as bright, whatever the room's size."""
    count = int(rng.integers(1, 4))
    lamps = []
    for _ in range(count):
        at = rng.uniform(-0.7, 0.7, 2) * half
        z = height - rng.uniform(0.1, 0.4)
        strength = rng.uniform(0.5, 1.2) * 0.8 * (0.6 * height) ** 2 * 1.6 / count
        tint = np.array([1.0, rng.uniform(0.8, 1.0), rng.uniform(0.6, 1.0)]) * strength
        lamps.append(Lamp((float(at[0]), float(at[1]), float(z)), tuple(tint.tolist()), rng.uniform(0.2, 0.8)))
    return tuple(lamps)


def sun(rng: np.random.Generator, reach: float) -> Lamp:
    """One lamp so far off that a scene of `reach` metres has parallel shadows."""
    heading, climb = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(35, 75))
    distance = 12.0 * reach
    offset = distance * np.array(
        [math.cos(heading) * math.cos(climb), math.sin(heading) * math.cos(climb), math.sin(climb)]
    )
    strength = rng.uniform(0.5, 1.1) * distance**2 / math.sin(climb)
    tint = np.array([1.0, rng.uniform(0.82, 1.0), rng.uniform(0.6, 0.95)]) * strength
    return Lamp(tuple(offset.tolist()), tuple(tint.tolist()), size=distance * rng.uniform(0.01, 0.06))


def exposed(filmed: Staged, brightness: float) -> Staged:
    """The same with all lights scaled, as a light meter would: the path's median pixel gets about `brightness`
    (linear), within limits, since dark rooms stay dark."""
    studio = Studio(filmed.scene)
    seen = np.stack([studio.photo(camera, 1).rgb for camera in filmed.cameras(4, 40, 24)]) / 255.0
    median = float(np.median(seen.mean(-1) ** 2.2))
    factor = float(np.clip(brightness / max(median, 1e-4), 0.3, 8.0))

    def scaled(color: tuple[float, float, float]) -> tuple[float, float, float]:
        return color[0] * factor, color[1] * factor, color[2] * factor

    scene = filmed.scene
    lamps = tuple(Lamp(lamp.position, scaled(lamp.color), lamp.size) for lamp in scene.lamps)
    return replace(filmed, scene=Scene(scene.things, lamps, scaled(scene.sky), scaled(scene.ground)))


def _ease(along: Array) -> Array:
    return along * along * (3.0 - 2.0 * along)
