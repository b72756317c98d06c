"""Random small objects, and the way they are put down."""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray
from trimesh.creation import box, capsule, cone, cylinder, icosphere, torus

from genfusion_ns.synthetic import textures as tx
from genfusion_ns.synthetic.looks import surface
from genfusion_ns.synthetic.render import Thing
from genfusion_ns.synthetic.shapes import bumpy, placed, turned

Array = NDArray[np.floating]


def cushion(sides: tuple[float, float, float], roundness: float = 0.4, subdivisions: int = 4) -> trimesh.Trimesh:
    """A box with soft edges (a superellipsoid): `roundness` 1 = a ball, towards 0 = a box."""
    ball = icosphere(subdivisions=subdivisions)
    corners = np.asarray(ball.vertices)
    soft = np.sign(corners) * np.abs(corners) ** roundness
    soft /= np.abs(soft).max()
    return trimesh.Trimesh(soft * np.asarray(sides) / 2, ball.faces, process=False)


def vessel(rng: np.random.Generator, radius: float, height: float) -> trimesh.Trimesh:
    """A vase, bottle or cup turned on a wheel: a smooth random profile with an opening."""
    along = np.linspace(0, 1, 28)
    waist = sum(rng.uniform(-0.35, 0.35) / k * np.sin(np.pi * k * along + rng.uniform(0, 6.28)) for k in (1, 2, 3))
    profile = np.clip(0.7 + waist, 0.2, 1.0) * radius
    outside = np.column_stack([profile, along * height])
    inside = np.array([[profile[-1] * 0.88, height * 0.99], [profile[-1] * 0.8, height * 0.6], [0.0, height * 0.5]])
    return turned(np.concatenate([[[0.0, 0.0]], outside, inside]), sections=48)


def random_mesh(rng: np.random.Generator, size: float) -> tuple[trimesh.Trimesh, bool]:
    """Some object about `size` metres tall, and whether it is smooth."""
    kind = int(rng.integers(10))
    a, b, c = size * rng.uniform(0.4, 1.0, 3)
    if kind == 0:
        return box((a, b, c)), False
    if kind == 1:
        return cushion((a, b, c), rng.uniform(0.25, 0.6)), True
    if kind == 2:
        return icosphere(subdivisions=4, radius=a / 2), True
    if kind == 3:
        return vessel(rng, 0.35 * a, size * rng.uniform(0.6, 1.3)), True
    if kind == 4:
        return cylinder(radius=0.3 * a, height=b, sections=int(rng.choice([6, 32, 48]))), False
    if kind == 5:
        stone = bumpy(
            icosphere(subdivisions=4, radius=0.35 * size),
            0.3 * size,
            tx.fractal(int(rng.integers(2**31)), rng.uniform(2, 6) / size, 4),
        )
        return stone, True
    if kind == 6:
        return torus(0.35 * a, 0.12 * b, major_sections=48, minor_sections=20), True
    if kind == 7:
        return capsule(height=0.5 * a, radius=0.22 * b, count=[24, 24]), True
    if kind == 8:
        return cone(radius=0.35 * a, height=b, sections=40), True
    return box((a, b * 0.7, c * 0.25)), False  # a book, a carton, a slab


def random_thing(rng: np.random.Generator, size: float, at: tuple[float, float, float], lying: bool = False) -> Thing:
    """Some object with some look, standing at `at` (or `lying` at any angle)."""
    mesh, smooth = random_mesh(rng, size)
    tilt = float(rng.uniform(0, np.pi)) if lying else 0.0
    pose = placed(mesh, at, turn=float(rng.uniform(0, 2 * np.pi)), tilt=tilt)
    gloss = float(rng.choice([0.0, 0.0, 0.06, 0.15]))
    return Thing(mesh, surface(rng, size), pose, smooth=smooth, gloss=gloss)


def scattered(rng: np.random.Generator, count: int, half: tuple[float, float], apart: float) -> Array:
    """Up to `count` places [n, 2] within +-half, no two nearer than `apart` (dart throwing)."""
    places: list[Array] = []
    for _ in range(30 * count):
        place = rng.uniform(-1, 1, 2) * half
        if all(np.hypot(*(place - other)) >= apart for other in places):
            places.append(place)
        if len(places) == count:
            break
    return np.array(places).reshape(-1, 2)
