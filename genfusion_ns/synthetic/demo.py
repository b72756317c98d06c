"""The demo's scene: a tiled room with a table, and on it things with detail at several scales."""

from __future__ import annotations

import math

import numpy as np
import trimesh
from trimesh.creation import box, cylinder, icosphere, torus

from genfusion_ns.cameras import Camera
from genfusion_ns.synthetic import textures as tx
from genfusion_ns.synthetic.poses import arc, cameras_along, hand_held
from genfusion_ns.synthetic.render import Lamp, Scene, Thing
from genfusion_ns.synthetic.shapes import bumpy, placed, quad, room, turned

_TOP = 0.74  # height of the table's top
_FOCUS = (0.0, 0.0, 0.86)


def demo_scene(seed: int = 0) -> Scene:
    """The room with its table, in metres, z up; the seed changes every texture and what stands where."""
    lamps = (
        Lamp((0.5, -0.6, 2.35), (3.1, 2.8, 2.4), size=0.5),
        Lamp((-1.3, 1.0, 2.3), (1.3, 1.4, 1.6), size=0.4),
    )
    things = (*_room(seed), *_table(seed), *_tableware(seed))
    return Scene(things, lamps, sky=(0.26, 0.27, 0.29), ground=(0.14, 0.12, 0.11))


def demo_path(count: int, width: int, height: int, seed: int = 0) -> list[Camera]:
    """`count` views along a hand-held arc of 120 degrees around the table, 60 degrees wide."""
    positions = hand_held(
        arc(count, np.array(_FOCUS), radius=1.25, height=0.5, sweep=math.radians(120), start=math.radians(-90)),
        np.array([0.12, 0.12, 0.22]),
        seed,
    )
    targets = hand_held(np.tile(_FOCUS, (count, 1)), 0.08, seed + 1)
    return cameras_along(positions, targets, width, height, fov=60.0)


def _room(seed: int) -> list[Thing]:
    wallpaper = tx.layered(
        tx.mottled((0.42, 0.5, 0.45), (0.62, 0.66, 0.58), seed + 1, 5.0, octaves=3),
        tx.tiled(tx.palette(seed + 2, 6, 0.35), (0.42, 0.42, 0.42), seed + 2, joint=0.0),
        lambda points: np.where(tx.fractal_noise(points, seed + 3, 2.0, 2) > 0.52, 0.6, 0.0),
    )
    floor = tx.dirtied(tx.tiled(tx.palette(seed + 4, 5, 0.5), (0.3, 0.3, 0), seed + 4), seed + 5, 6.0)
    shell = room(4.4, 4.4, 2.6)
    pictures = [
        (-1.0, 2.19, 0.9, 0.0, 0.9, 0.7),
        (0.75, 2.19, 0.8, 0.0, 1.1, 0.8),
        (2.19, 0.4, 0.85, -math.pi / 2, 0.9, 0.9),
        (-2.19, 0.2, 0.85, math.pi / 2, 1.2, 0.8),
    ]
    hung = [
        _picture((x, y, z), turn, (width, tall), seed + 10 + index)
        for index, (x, y, z, turn, width, tall) in enumerate(pictures)
    ]
    ground = quad(4.4, 4.4)
    rug = box((2.4, 2.4, 0.01))
    rug_look = tx.dirtied(tx.cells(tx.palette(seed + 6, 7), seed + 6, 0.9, border=0.08), seed + 7, 10.0, 0.6)
    return [
        Thing(shell, wallpaper),
        Thing(ground, floor, placed(ground, (0, 0, 0.002))),
        Thing(rug, rug_look, placed(rug, (0, 0, 0.003), turn=0.3)),
        *hung,
    ]


def _picture(at: tuple[float, float, float], turn: float, size: tuple[float, float], seed: int) -> Thing:
    """A framed painting that hangs on a wall and faces -y before it is turned."""
    canvas = box((size[0], 0.04, size[1]))
    painting = tx.layered(
        tx.mottled((0.05, 0.15, 0.5), (0.9, 0.7, 0.3), seed, 3.0),
        tx.cells(tx.palette(seed, 8, 0.9, 0.95), seed, 1.4, border=0.1),
        lambda points: 3.0 * (tx.fractal_noise(points, seed + 1, 3.0) - 0.45),
    )
    edge = np.array([size[0], size[1]]) / 2 - 0.05
    framed = tx.layered(
        painting,
        tx.plain((0.05, 0.03, 0.02)),
        lambda points: 1.0 * (np.abs(points[:, [0, 2]]) > edge).any(axis=1),
    )
    return Thing(canvas, framed, placed(canvas, at, turn=turn))


def _table(seed: int) -> list[Thing]:
    wood = tx.dirtied(tx.grained((0.32, 0.15, 0.06), (0.62, 0.36, 0.16), seed + 20, 9.0), seed + 21, 25.0, 0.35)
    top = box((1.3, 0.9, 0.04))
    leg = cylinder(radius=0.03, height=0.7, sections=24)
    corners = [(x, y) for x in (-0.58, 0.58) for y in (-0.38, 0.38)]
    cloth = box((0.7, 0.5, 0.006))
    weave = tx.tiled(
        tx.palette(seed + 22, 4, 0.7, 0.9), (0.05, 0.05, 0), seed + 22, joint=0.12, mortar=(0.8, 0.78, 0.7)
    )
    return [
        Thing(top, wood, placed(top, (0, 0, _TOP - 0.04)), gloss=0.05),
        *(Thing(leg, wood, placed(leg, (x, y, 0.0)), smooth=True) for x, y in corners),
        Thing(cloth, weave, placed(cloth, (0.08, -0.02, _TOP), turn=0.25)),
    ]


def _tableware(seed: int) -> list[Thing]:
    """What stands on the table; the seed shuffles the places."""
    rng = np.random.default_rng([seed, 0x7461])
    places = np.array([(-0.42, 0.2), (0.0, 0.24), (0.42, 0.22), (-0.3, -0.18), (0.1, -0.2), (0.42, -0.15)])
    places = rng.permutation(places + rng.uniform(-0.04, 0.04, places.shape))
    makers = (_vase, _ball, _books, _bowl, _stone, _ring)
    return [thing for make, (x, y) in zip(makers, places, strict=True) for thing in make(x, y, seed)]


def _standing(mesh: trimesh.Trimesh, look: tx.Texture, x: float, y: float, **how: float) -> Thing:
    gloss, turn, tilt, above = (how.get(key, 0.0) for key in ("gloss", "turn", "tilt", "above"))
    pose = placed(mesh, (x, y, _TOP + 0.006 + above), turn=turn, tilt=tilt)
    return Thing(mesh, look, pose, smooth="flat" not in how, gloss=gloss)


def _vase(x: float, y: float, seed: int) -> list[Thing]:
    along = np.linspace(0.0, 1.0, 40)
    outside = np.column_stack([0.05 + 0.05 * np.sin(0.4 + 4.6 * along) ** 2 * (1.2 - along), 0.34 * along])
    mesh = turned(np.concatenate([[[0.0, 0.0]], outside, [[0.045, 0.33], [0.0, 0.2]]]))
    glaze = tx.layered(
        tx.veined((0.75, 0.72, 0.66), (0.05, 0.1, 0.35), seed + 30, 7.0),
        tx.tiled(tx.palette(seed + 31, 5, 0.9), (0, 0, 0.045), seed + 31, joint=0.15),
        lambda points: 4.0 * (tx.fractal_noise(points, seed + 32, 6.0, 2) - 0.5),
    )
    return [_standing(mesh, glaze, x, y, gloss=0.12)]


def _ball(x: float, y: float, seed: int) -> list[Thing]:
    look = tx.cells(tx.palette(seed + 33, 6, 0.9, 0.9), seed + 33, 4.5, border=0.07, line=(0.7, 0.68, 0.6))
    return [_standing(icosphere(subdivisions=4, radius=0.11), look, x, y, gloss=0.08)]


def _books(x: float, y: float, seed: int) -> list[Thing]:
    rng = np.random.default_rng([seed, 0x626F])
    stack, above = [], 0.0
    for index in range(4):
        width, depth, tall = rng.uniform((0.2, 0.14, 0.025), (0.26, 0.18, 0.05))
        colors = tx.palette(seed + 40 + index, 3, 0.8)
        look = tx.dirtied(tx.tiled(colors, (0.045, 0.11, 0.02), seed + 40 + index, joint=0.1), seed + index, 30.0, 0.4)
        stack.append(_standing(box((width, depth, tall)), look, x, y, turn=rng.uniform(-0.5, 0.5), above=above, flat=1))
        above += tall
    return stack


def _bowl(x: float, y: float, seed: int) -> list[Thing]:
    angle = np.linspace(0.15, 1.45, 24)
    outside = 0.14 * np.column_stack([np.sin(angle), 1.0 - np.cos(angle)])
    inside = 0.125 * np.column_stack([np.sin(angle[::-1]), 1.1 - np.cos(angle[::-1])])
    mesh = turned(np.concatenate([[[0.0, outside[0, 1]]], outside, inside, [[0.0, inside[-1, 1]]]]))
    look = tx.mottled((0.5, 0.12, 0.06), (0.85, 0.6, 0.25), seed + 50, 14.0)
    fruit = [
        _standing(
            icosphere(subdivisions=3, radius=0.045),
            tx.mottled(low, high, seed + 51 + index, 22.0),
            x + 0.05 * math.cos(2.1 * index),
            y + 0.05 * math.sin(2.1 * index),
            above=0.045,
            gloss=0.1,
        )
        for index, (low, high) in enumerate(
            [
                ((0.7, 0.25, 0.02), (0.9, 0.5, 0.1)),
                ((0.5, 0.02, 0.02), (0.8, 0.25, 0.1)),
                ((0.2, 0.4, 0.05), (0.6, 0.7, 0.2)),
            ]
        )
    ]
    return [_standing(mesh, look, x, y, gloss=0.1), *fruit]


def _stone(x: float, y: float, seed: int) -> list[Thing]:
    rough = bumpy(icosphere(subdivisions=5, radius=0.06), 0.07, tx.fractal(seed + 60, 9.0, 4))
    look = tx.mottled((0.1, 0.1, 0.12), (0.6, 0.58, 0.5), seed + 61, 18.0, octaves=5, gain=0.7)
    return [_standing(rough, look, x, y)]


def _ring(x: float, y: float, seed: int) -> list[Thing]:
    mesh = torus(major_radius=0.1, minor_radius=0.035, major_sections=64, minor_sections=32)
    look = tx.cells(tx.palette(seed + 70, 8, 0.85, 0.9), seed + 70, 7.0, border=0.06)
    return [_standing(mesh, look, x, y, tilt=0.35, above=-0.01, gloss=0.08)]
