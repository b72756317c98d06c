"""Furnished rooms, filmed from within."""

from __future__ import annotations

import math

import numpy as np
from trimesh.creation import box, cylinder

from genfusion_ns.synthetic import textures as tx
from genfusion_ns.synthetic.looks import muted, patterned, surface, tones
from genfusion_ns.synthetic.render import Scene, Thing
from genfusion_ns.synthetic.shapes import placed, quad, room
from genfusion_ns.synthetic.staging import Curve, Staged, around, forward, indoor_lamps, staged, walk
from genfusion_ns.synthetic.things import cushion, random_thing

Place = tuple[float, float, float]  # x and y of the foot, and the heading that it faces


def rooms(seed: int) -> Staged:
    """A room with furniture along its walls, pictures, a carpet and things in the middle."""
    rng = np.random.default_rng([seed, 0x726F])
    half = np.array([rng.uniform(1.8, 3.4), rng.uniform(1.8, 3.4)])
    tall = float(rng.uniform(2.3, 3.1))
    shell, floor = room(2 * half[0], 2 * half[1], tall), quad(2 * half[0], 2 * half[1])
    walls = surface(rng, 3.0, 0.55)
    things = [Thing(shell, walls), Thing(floor, surface(rng, 1.5, 0.1), placed(floor, (0, 0, 0.002)))]
    for wall in range(4):
        things += _along_wall(rng, half, wall, tall)
    if rng.random() < 0.6:
        rug = box((rng.uniform(1.0, 2.0), rng.uniform(0.8, 1.6), 0.012))
        things.append(Thing(rug, surface(rng, 1.2, 0.0), placed(rug, (0, 0, 0.003), turn=rng.uniform(0, 1))))
    if rng.random() < 0.6:
        things += _coffee_table(rng)
    scene = Scene(
        tuple(things), indoor_lamps(rng, (float(half[0]), float(half[1])), tall), (0.25, 0.26, 0.27), (0.16, 0.14, 0.13)
    )
    return staged(rng, scene, _path(rng, half), 1.5)


def _along_wall(rng: np.random.Generator, half: np.ndarray, wall: int, tall: float) -> list[Thing]:
    """Furniture and pictures of one wall (0 to 3: +x, +y, -x, -y)."""
    heading = wall * math.pi / 2
    out = np.array([math.cos(heading), math.sin(heading)])
    side = np.array([-out[1], out[0]])
    reach, length = half @ np.abs(out), half @ np.abs(side)
    things: list[Thing] = []
    at = -length + rng.uniform(0.1, 0.6)
    while at < length - 0.5:
        width = float(rng.uniform(0.5, 1.7))
        middle = at + width / 2
        if middle + width / 2 > length - 0.1:
            break
        foot = out * (reach - 0.32) + side * middle
        place = (float(foot[0]), float(foot[1]), heading + math.pi / 2)
        kind = rng.random()
        height = 0.0
        if kind < 0.28:
            things += _shelf(rng, place, width)
            height = tall
        elif kind < 0.5:
            things += _sofa(rng, place, width)
            height = 0.9
        elif kind < 0.75:
            height = float(rng.uniform(0.5, 1.2))
            things += _chest(rng, place, width, height)
        elif kind < 0.85:
            things.append(random_thing(rng, float(rng.uniform(0.4, 1.2)), (place[0], place[1], 0.0)))
            height = 1.2
        if height < 1.4 and rng.random() < 0.75:
            things.append(_picture(rng, out * (reach - 0.02) + side * middle, place[2], width, max(height, 0.9), tall))
        at += width + float(rng.uniform(0.05, 0.5))
    return things


def _part(
    sides: tuple[float, float, float], look: tx.Texture, place: Place, offset: tuple[float, float, float]
) -> Thing:
    """A box in the space of a piece of furniture: x along the wall, y away from it towards the room's middle."""
    mesh = box(sides)
    c, s = math.cos(place[2]), math.sin(place[2])
    x, y, z = offset
    return Thing(mesh, look, placed(mesh, (place[0] + c * x - s * y, place[1] + s * x + c * y, z), turn=place[2]))


def _shelf(rng: np.random.Generator, place: Place, width: float) -> list[Thing]:
    """A bookcase full of books and knick-knacks."""
    wood = surface(rng, 1.5, 0.4)
    tall, boards = float(rng.uniform(1.0, 2.0)), int(rng.integers(3, 6))
    things = [_part((0.03, 0.32, tall), wood, place, (x * width / 2, 0, 0)) for x in (-1, 1)]
    things.append(_part((width, 0.02, tall), wood, place, (0, -0.15, 0)))
    gap = tall / boards
    for board in range(boards + 1):
        things.append(_part((width, 0.32, 0.025), wood, place, (0, 0, min(board * gap, tall - 0.025))))
    for board in range(boards):
        if rng.random() < 0.2:
            continue
        # one block per board: the texture makes its books
        row = float(rng.uniform(0.5, 0.95)) * width
        thick = float(rng.uniform(0.02, 0.05))
        books = tx.dirtied(
            tx.tiled(tones(rng, 8, 0.7), (thick, 0, 0), int(rng.integers(2**31)), 0.12),
            int(rng.integers(2**31)),
            40.0,
            0.4,
        )
        high = float(rng.uniform(0.55, 0.9)) * gap
        things.append(
            _part((row, 0.22, high), books, place, (0.4 * (width - row) * rng.uniform(-1, 1), 0, board * gap + 0.025))
        )
    return things


def _sofa(rng: np.random.Generator, place: Place, width: float) -> list[Thing]:
    """A seat with cushions."""
    width = max(width, 0.8)
    cloth = surface(rng, 0.6, 0.35)
    things = [
        _part((width, 0.6, 0.38), cloth, place, (0, 0.1, 0)),
        _part((width, 0.16, 0.85), cloth, place, (0, -0.2, 0)),
        *(_part((0.12, 0.6, 0.55), cloth, place, (x * width / 2, 0.1, 0)) for x in (-1, 1)),
    ]
    for _ in range(int(rng.integers(0, 4))):
        mesh = cushion((0.4, 0.15, 0.4), 0.5, 3)
        x, y = rng.uniform(-0.4, 0.4) * width, 0.05
        c, s = math.cos(place[2]), math.sin(place[2])
        at = (place[0] + c * x - s * y, place[1] + s * x + c * y, 0.38)
        pose = placed(mesh, at, turn=place[2] + rng.uniform(-0.4, 0.4), tilt=-0.3)
        things.append(Thing(mesh, surface(rng, 0.4, 0.1), pose, smooth=True))
    return things


def _chest(rng: np.random.Generator, place: Place, width: float, height: float) -> list[Thing]:
    """A chest of drawers with things on it."""
    seed = int(rng.integers(2**31))
    drawers = tx.tiled(tones(rng, 3, 0.0), (width / 2, 0, height / 3), seed, 0.04)
    things = [_part((width, 0.5, height), tx.dirtied(drawers, seed, 12.0, 0.3), place, (0, 0.05, 0))]
    c, s = math.cos(place[2]), math.sin(place[2])
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(-0.4, 0.4) * width, rng.uniform(-0.1, 0.15)
        at = (place[0] + c * x - s * y, place[1] + s * x + c * y, height)
        things.append(random_thing(rng, float(rng.uniform(0.12, 0.4)), at))
    return things


def _picture(rng: np.random.Generator, at: np.ndarray, turn: float, width: float, low: float, tall: float) -> Thing:
    """A picture, poster or bright window on a wall."""
    sides = float(rng.uniform(0.4, 0.9)) * width, float(rng.uniform(0.3, max(0.35, tall - low - 0.3)))
    canvas = box((sides[0], 0.04, sides[1]))
    edge = np.array(sides) / 2 - 0.04
    motif = patterned(rng, 0.5) if rng.random() < 0.8 else tx.mottled((0.85, 0.9, 0.95), (0.5, 0.7, 0.95), 1, 1.0)
    frame = tx.plain(muted(rng, 0.02, 0.7))
    look = tx.layered(motif, frame, lambda points: 1.0 * (np.abs(points[:, [0, 2]]) > edge).any(axis=1))
    z = min(low + 0.1, tall - sides[1] - 0.05)
    return Thing(canvas, look, placed(canvas, (float(at[0]), float(at[1]), z), turn=turn))


def _coffee_table(rng: np.random.Generator) -> list[Thing]:
    high = float(rng.uniform(0.35, 0.75))
    top = cylinder(radius=rng.uniform(0.3, 0.5), height=0.03, sections=48)
    leg = cylinder(radius=0.03, height=high, sections=16)
    x, y = rng.uniform(-0.5, 0.5, 2)
    wood = surface(rng, 0.6, 0.2)
    things = [Thing(top, wood, placed(top, (x, y, high)), gloss=0.06), Thing(leg, wood, placed(leg, (x, y, 0)))]
    for _ in range(int(rng.integers(1, 4))):
        dx, dy = rng.uniform(-0.2, 0.2, 2)
        things.append(random_thing(rng, float(rng.uniform(0.1, 0.3)), (x + dx, y + dy, high + 0.03)))
    return things


def _path(rng: np.random.Generator, half: np.ndarray) -> tuple[Curve, Curve]:
    """Around the middle looking in, a pan looking out, a walk along one side, or a stand before one wall."""
    kind, eye = rng.random(), float(rng.uniform(0.9, 1.7))
    centre = np.array([0.0, 0.0, float(rng.uniform(0.5, 1.0))])
    free = float(half.min()) - 0.75
    if kind < 0.4:
        rise = eye - centre[2]
        return around(rng, centre, (0.75 * free, free), (0.7 * rise, rise + 0.1), (60, 220))
    angle = rng.uniform(0, 2 * math.pi)
    out = np.array([math.cos(angle), math.sin(angle), 0.0])
    side = np.array([-out[1], out[0], 0.0])
    target = out * float(half.min()) + [0, 0, float(rng.uniform(0.6, 1.3))]
    start = -0.8 * free * out + [0, 0, eye]
    if kind < 0.7:
        swing = side * 0.7 * free
        return walk(rng, start - swing, start + swing, target, float(rng.uniform(0.0, 0.8)))
    if kind < 0.85:
        return walk(rng, start, start + out * 0.9 * free, target, float(rng.uniform(0.0, 0.4)))
    return forward(rng, start, target, float(rng.uniform(0.15, 0.45)))
