"""Meshes for procedural scenes: pure functions that return a `trimesh.Trimesh`.

Boxes, balls, tubes and rings are trimesh's own (`trimesh.creation`); here is what it lacks, and the placing of parts.
World axes: z up, metres.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import trimesh
from numpy.typing import NDArray

Array = NDArray[np.floating]


def placed(
    mesh: trimesh.Trimesh,
    at: tuple[float, float, float],
    turn: float = 0.0,
    tilt: float = 0.0,
    scale: float | tuple[float, float, float] = 1.0,
) -> NDArray[np.float64]:
    """Object-to-world transform [4, 4] that scales, tilts about x, turns about z (radians), then moves to `at`.

    The mesh is only looked at for its lowest point: `at` is where its foot stands, not its centre.
    """
    matrix = np.diag([*np.broadcast_to(scale, 3), 1.0]).astype(np.float64)
    for angle, axis in ((tilt, [1, 0, 0]), (turn, [0, 0, 1])):
        matrix = trimesh.transformations.rotation_matrix(angle, axis) @ matrix
    foot = trimesh.transformations.transform_points(np.asarray(mesh.vertices), matrix)[:, 2].min()
    matrix[:3, 3] += np.asarray(at) - [0.0, 0.0, foot]
    return matrix


def quad(width: float, depth: float) -> trimesh.Trimesh:
    """A rectangle in the xy plane, centred, facing +z."""
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * [width / 2, depth / 2, 1.0]
    return trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)


def room(width: float, depth: float, height: float) -> trimesh.Trimesh:
    """A box seen from inside, floor at z = 0, centred in x and y."""
    box = trimesh.creation.box(extents=(width, depth, height))
    box.apply_translation([0, 0, height / 2])
    box.invert()
    return box


def turned(profile: Array, sections: int = 64) -> trimesh.Trimesh:
    """A surface of revolution about z, as from a potter's wheel; `profile` [n, 2] lists radius and height."""
    return trimesh.creation.revolve(np.asarray(profile, np.float64), sections=sections)


def terrain(size: float, cells: int, height: Callable[[Array], Array]) -> trimesh.Trimesh:
    """A height field over a square of side `size`; `height` maps points [n, 2] to heights [n]."""
    axis = np.linspace(-size / 2, size / 2, cells + 1)
    xy = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    corner = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).reshape(-1)
    right, up = corner + cells + 1, corner + 1
    faces = np.concatenate([np.stack([corner, right, right + 1], -1), np.stack([corner, right + 1, up], -1)])
    return trimesh.Trimesh(np.column_stack([xy, height(xy)]), faces, process=False)


def bumpy(mesh: trimesh.Trimesh, amount: float, bumps: Callable[[Array], Array]) -> trimesh.Trimesh:
    """The mesh with its vertices moved along their normals by `amount` times `bumps` [n], a function of position."""
    vertices = np.asarray(mesh.vertices)
    moved = vertices + amount * bumps(vertices)[:, None] * np.asarray(mesh.vertex_normals)
    return trimesh.Trimesh(moved, mesh.faces, process=False)
