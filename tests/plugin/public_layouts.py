"""Tiny scenes in the folders of the public benchmarks: a COLMAP text model and photos at several sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

FULL = (99, 66)
"""Width and height of the photos in `images`; 99 / 4 is no whole number, as in Mip-NeRF 360."""


def write_public_scene(
    folder: Path, model: str = "sparse/0", views: int = 12, factors: tuple[int, ...] = (1, 4), transforms: bool = False
) -> Path:
    """`views` photos of a few points on an arc; `images_{f}` for each factor f, sizes rounded to the nearest."""
    poses = [_pose(angle) for angle in np.linspace(-0.6, 0.6, views)]
    rng = np.random.default_rng(0)
    for factor in factors:
        images = folder / ("images" if factor == 1 else f"images_{factor}")
        images.mkdir(parents=True)
        for i in range(views):
            # No two photos are alike, and each is the same picture at every factor.
            coarse = np.random.default_rng(i).integers(0, 256, (8, 12, 3)).astype(np.uint8)
            size = round(FULL[0] / factor), round(FULL[1] / factor)
            Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST).save(images / f"frame_{i + 1:05d}.png")
    points = rng.uniform(-0.6, 0.6, (60, 3))
    _write_model(folder / model, poses, points)
    if transforms:
        frames = [
            {"file_path": f"images/frame_{i + 1:05d}.png", "transform_matrix": _opengl(pose).tolist()}
            for i, pose in enumerate(poses)
        ]
        lens = {"w": FULL[0], "h": FULL[1], "fl_x": 110.0, "fl_y": 112.0, "cx": 50.0, "cy": 33.0}
        (folder / "transforms.json").write_text(json.dumps({"camera_model": "OPENCV", **lens, "frames": frames}))
    return folder


def _pose(angle: float) -> np.ndarray:
    """Camera-to-world, OpenCV axes: on a circle of radius 4, looking at the origin."""
    eye = 4 * np.array([np.sin(angle), 0.1 * angle, -np.cos(angle)])
    z = -eye / np.linalg.norm(eye)
    x = np.cross([0.0, 1.0, 0.0], z)
    x /= np.linalg.norm(x)
    return np.block([[np.stack([x, np.cross(z, x), z], axis=1), eye[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])


def _opengl(pose: np.ndarray) -> np.ndarray:
    return pose @ np.diag([1.0, -1.0, -1.0, 1.0])


def _write_model(folder: Path, poses: list[np.ndarray], points: np.ndarray) -> None:
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text(f"1 PINHOLE {FULL[0]} {FULL[1]} 110 112 50 33\n")
    lines, seen = [], [[] for _ in points]
    for i, pose in enumerate(poses):
        w2c = np.linalg.inv(pose)
        x, y, z, w = Rotation.from_matrix(w2c[:3, :3]).as_quat()
        local = points @ w2c[:3, :3].T + w2c[:3, 3]
        pixels = local[:, :2] / local[:, 2:] * [110, 112] + [50, 33]
        place = " ".join(f"{value:.12g}" for value in (w, x, y, z, *w2c[:3, 3]))
        lines.append(f"{i + 1} {place} 1 frame_{i + 1:05d}.png")
        lines.append(" ".join(f"{u:.6f} {v:.6f} {p + 1}" for p, (u, v) in enumerate(pixels)))
        for p in range(len(points)):
            seen[p].append(f"{i + 1} {p}")
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{p + 1} {' '.join(map(str, xyz))} 200 100 50 0.1 {' '.join(seen[p])}" for p, xyz in enumerate(points)]
    (folder / "points3D.txt").write_text("\n".join(rows) + "\n")
