"""Scenes without the regularity of made things: clouds of small balls, a Menger sponge, branching trees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import trimesh
from numpy.typing import NDArray
from trimesh.creation import box, cylinder, icosphere

from genfusion_ns.synthetic import textures as tx
from genfusion_ns.synthetic.looks import daylight, foliage, muted, surface, tones
from genfusion_ns.synthetic.render import Scene, Thing
from genfusion_ns.synthetic.shapes import placed, quad
from genfusion_ns.synthetic.staging import Staged, around, staged, sun

Array = NDArray[np.floating]


def point_cloud(seed: int) -> Staged:
    """Hundreds of small coloured balls in clusters, shells and strands, filmed from around."""
    rng = np.random.default_rng([seed, 0x7063])
    centres = _cloud(rng, int(rng.integers(250, 1200)))
    radii = np.exp(rng.normal(np.log(0.035), 0.5, len(centres)))
    balls = merged(icosphere(subdivisions=1), centres, radii)
    look = tx.cells(tones(rng, 9, 0.8), int(rng.integers(2**31)), rng.uniform(0.5, 3.0), border=0.0)
    return _filmed(rng, [Thing(balls, look, smooth=True)])


def menger(seed: int) -> Staged:
    """A Menger sponge of level two or three, turned any way."""
    rng = np.random.default_rng([seed, 0x6D65])
    level = 2 if rng.random() < 0.6 else 3
    cells = sponge(level)
    side = 1.8 / 3**level
    mesh = merged(box((1, 1, 1)), cells * side, np.full(len(cells), side))
    turn, tilt = rng.uniform(0, 6.28), rng.uniform(0, 1.2)
    return _filmed(rng, [Thing(mesh, surface(rng, 1.0, 0.1), placed(mesh, (0, 0, -0.9), turn=turn, tilt=tilt))])


def tree(seed: int) -> Staged:
    """A tree that branches five or six times, with or without leaves."""
    rng = np.random.default_rng([seed, 0x7472])
    limbs, tips = branches(rng, int(rng.integers(5, 7)))
    bark = tx.mottled(muted(rng, 0.05, 0.3), muted(rng, 0.1, 0.5), int(rng.integers(2**31)), 12.0, 5)
    things = [Thing(limbs, bark, smooth=True)]
    if rng.random() < 0.75:
        radii = np.exp(rng.normal(np.log(0.05), 0.3, len(tips)))
        leaves = merged(icosphere(subdivisions=1), tips, radii)
        things.append(Thing(leaves, foliage(rng), smooth=True))
    return _filmed(rng, things, ground=True)


def merged(mesh: trimesh.Trimesh, centres: Array, sizes: Array) -> trimesh.Trimesh:
    """One mesh of copies of `mesh`, scaled by `sizes` [n] and moved to `centres` [n, 3]."""
    vertices = np.asarray(mesh.vertices)[None] * sizes[:, None, None] + centres[:, None]
    faces = np.asarray(mesh.faces)[None] + len(mesh.vertices) * np.arange(len(centres))[:, None, None]
    return trimesh.Trimesh(vertices.reshape(-1, 3), faces.reshape(-1, 3), process=False)


def merged_meshes(meshes: Sequence[trimesh.Trimesh]) -> trimesh.Trimesh:
    """One mesh of several."""
    offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    faces = [np.asarray(mesh.faces) + offset for mesh, offset in zip(meshes, offsets, strict=True)]
    return trimesh.Trimesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces), process=False)


def sponge(level: int) -> Array:
    """Centres [20^level, 3] of a Menger sponge's cubes, in units of their side, about the origin."""
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    steps = steps[(steps == 0).sum(1) < 2]
    cells = np.zeros((1, 3))
    for _ in range(level):
        cells = (cells[:, None] * 3 + steps).reshape(-1, 3)
    return cells


def branches(rng: np.random.Generator, depth: int) -> tuple[trimesh.Trimesh, Array]:
    """A recursive tree about 1.8 m tall as one mesh, and the tips [n, 3] of its last twigs."""
    starts, ways, radii = np.array([[0.0, 0.0, -0.9]]), np.array([[0.0, 0.0, 0.6]]), np.array([0.09])
    spread, shrink = rng.uniform(0.35, 0.75), rng.uniform(0.68, 0.8)
    limbs = []
    for level in range(depth):
        limbs += [_limb(s, s + w, r) for s, w, r in zip(starts, ways, radii, strict=True)]
        if level < depth - 1:
            split = int(rng.integers(2, 4))
            starts = np.repeat(starts + ways, split, 0)
            length = shrink * np.repeat(np.linalg.norm(ways, axis=1, keepdims=True), split, 0)
            bent = np.repeat(ways, split, 0) + rng.normal(0, spread, (len(length), 3)) * length / shrink
            bent[:, 2] += 0.15 * length[:, 0]
            ways = bent / np.linalg.norm(bent, axis=1, keepdims=True) * length * rng.uniform(0.8, 1.2, length.shape)
            radii = np.repeat(radii, split) * rng.uniform(0.55, 0.75)
    return merged_meshes(limbs), np.asarray(starts + ways, np.float64)


def _limb(start: Array, end: Array, radius: float) -> trimesh.Trimesh:
    return cylinder(radius=max(radius, 0.006), segment=np.stack([start, end]), sections=8)


def _cloud(rng: np.random.Generator, count: int) -> Array:
    """Points [count, 3] within about a metre of the origin."""
    kinds = rng.choice(4, size=int(rng.integers(2, 6)))
    parts = []
    for kind in kinds:
        n = count // len(kinds)
        middle = rng.uniform(-0.6, 0.6, 3)
        if kind == 0:
            part = rng.normal(0, rng.uniform(0.1, 0.4), (n, 3))
        elif kind == 1:
            part = rng.normal(0, 1, (n, 3))
            part *= rng.uniform(0.3, 0.8) / np.linalg.norm(part, axis=1, keepdims=True)
        elif kind == 2:
            t = np.linspace(0, rng.uniform(3, 14), n)
            part = np.stack([0.4 * np.cos(t), 0.4 * np.sin(t), 0.1 * (t - t.mean())], -1) + rng.normal(0, 0.03, (n, 3))
        else:
            part = rng.uniform(-0.8, 0.8, (n, 3)) * rng.choice([0.15, 1.0], 3)
        parts.append(part + middle)
    return np.clip(np.concatenate(parts), -1.1, 1.1)


def _filmed(rng: np.random.Generator, things: list[Thing], ground: bool = False) -> Staged:
    """The things over a ground (or in the open sky), with the camera on an arc or orbit about them."""
    if rng.random() < 0.7 or ground:
        plane = quad(24.0, 24.0)
        things = [*things, Thing(plane, surface(rng, 3.0), placed(plane, (0, 0, -0.9 if ground else -1.25)))]
    sky, below = daylight(rng)
    scene = Scene(tuple(things), (sun(rng, 3.0),), sky, below)
    curves = around(rng, np.zeros(3), (2.3, 3.4), (-0.3, 1.4), (60, 300))
    return staged(rng, scene, curves, 2.5)
