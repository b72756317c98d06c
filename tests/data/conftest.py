"""Synthetic captures with exact tracks, and real ones where the shared data is at hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_cameras import camera_from_arrays
from hypothesis import settings
from PIL import Image

from genfusion_ns.cameras import look_at
from genfusion_ns.data.colmap import ColmapModel, Tracks
from genfusion_ns.data.views import TrainView

SHARED = Path(os.environ.get("GENFUSION_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"

# Wall-clock deadlines fail on a busy machine and say nothing about the code.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


def ring(count: int, radius: float = 4.0, sweep: float = 1.5) -> np.ndarray:
    """[count, 4, 4] OpenCV camera-to-world on an arc around the origin, all looking at it."""
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    poses = []
    for angle in np.linspace(-sweep / 2, sweep / 2, count):
        eye = torch.tensor([radius * np.cos(angle), radius * np.sin(angle), 0.3], dtype=torch.float64)
        poses.append(look_at(eye, torch.zeros(3, dtype=torch.float64), up).numpy())
    return np.stack(poses)


class Capture:
    """Points in a ball of radius 1, seen by a ring of cameras with exact observations."""

    K = np.array([[100.0, 0.0, 61.0], [0.0, 110.0, 47.0], [0.0, 0.0, 1.0]])
    width, height = 120, 96

    def __init__(self, views: int = 5, points: int = 40, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.c2w = ring(views)
        self.w2c = np.linalg.inv(self.c2w)
        self.xyz = rng.uniform(-0.5, 0.5, (points, 3))
        self.rgb = rng.integers(0, 256, (points, 3)).astype(np.uint8)
        local = np.einsum("vij,pj->vpi", self.w2c[:, :3, :3], self.xyz) + self.w2c[:, None, :3, 3]
        image, point = np.meshgrid(np.arange(views), np.arange(points), indexing="ij")
        ray = (local[..., :2] / local[..., 2:]).reshape(-1, 2)
        self.tracks = Tracks(point.reshape(-1), image.reshape(-1), ray)

    def model(self) -> ColmapModel:
        names = [f"{v:03d}.jpg" for v in range(len(self.c2w))]
        return ColmapModel(names, self.c2w.copy(), self.xyz.copy(), self.rgb, self.tracks)

    def views(self, image: np.ndarray | None = None) -> list[TrainView]:
        photo = np.full((self.height, self.width, 3), 128, np.uint8) if image is None else image
        return [
            TrainView(camera_from_arrays(pose, self.K, self.width, self.height), photo, f"images/{v:03d}.png", v)
            for v, pose in enumerate(self.c2w)
        ]


@pytest.fixture(scope="session")
def capture() -> type[Capture]:
    return Capture


@pytest.fixture
def shared_scene() -> Callable[[str], Path]:
    def find(name: str) -> Path:
        folder = SHARED / name
        if not folder.is_dir():
            pytest.skip(f"the shared test scene {folder} is not here")
        return folder

    return find


@pytest.fixture
def shared_views(shared_scene) -> Callable[[str, int], list[TrainView]]:
    """The training views of a shared scene's sparse split, in the world of its transforms.json."""

    def load(name: str, n: int) -> list[TrainView]:
        scene = shared_scene(name)
        meta = json.loads((scene / "transforms.json").read_text())
        ids = json.loads((scene / f"train_test_split_{n}.json").read_text())["train_ids"]
        K = np.array([[meta["fl_x"], 0, meta["cx"]], [0, meta["fl_y"], meta["cy"]], [0, 0, 1]])
        views = []
        for i in ids:
            frame = meta["frames"][i]
            c2w = np.array(frame["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0])
            image = np.asarray(Image.open(scene / frame["file_path"]).convert("RGB"))
            camera = camera_from_arrays(c2w, K, image.shape[1], image.shape[0])
            views.append(TrainView(camera, image, frame["file_path"], i))
        return views

    return load
