"""Stores a procedural scene as a Nerfstudio folder, with its ground truth beside it.

transforms.json               intrinsics, OpenGL poses
images/frame_00001.png        photos
sparse_pc.ply                 surface points with the photos' colours, for initialisation
train_test_split_{3,6,9}.json sparse-view splits (indices into the frames)
ground_truth/frame_00001.npy  [H, W] float32 z-depth in metres; no dataparser looks there
procedural.json               the settings that the folder was made with
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from genfusion_ns.cameras import Camera, opengl_to_opencv, unproject
from genfusion_ns.errors import UserError
from genfusion_ns.synthetic.render import Photo, Scene, Studio

_MANIFEST = "procedural.json"
_TEST_EVERY = 8  # Nerfstudio's eval_interval: "all views" and the sparse splits then share their test views
_SPLITS = (3, 6, 9)


def write_scene(
    out: Path,
    scene: Scene,
    cameras: Sequence[Camera],
    settings: Mapping[str, object],
    *,
    points: int = 3000,
    supersample: int = 3,
    overwrite: bool = False,
    show: bool = False,
) -> bool:
    """Photograph `scene` along `cameras` into the new folder `out`; False if it is already there, with the same
    `settings` (plain JSON values that tell this scene from others). The folder appears at once or not at all.

    Raises:
        UserError: `out` holds something else and may not be overwritten, or is no folder made by this function.
    """
    if _already_there(out, settings, overwrite):
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "new"
        (folder / "images").mkdir(parents=True)
        (folder / "ground_truth").mkdir()
        studio = Studio(scene)
        photos = []
        for index, camera in enumerate(track(cameras, "photographing", disable=not show, transient=True)):
            photo = studio.photo(camera, supersample)
            Image.fromarray(photo.rgb).save(folder / "images" / f"{frame_name(index)}.png")
            np.save(folder / "ground_truth" / f"{frame_name(index)}.npy", photo.depth)
            photos.append(photo)
        xyz, rgb = surface_points(cameras, photos, points)
        (folder / "sparse_pc.ply").write_bytes(trimesh.PointCloud(xyz, rgb).export(file_type="ply"))  # pyright: ignore
        (folder / "transforms.json").write_text(json.dumps(transforms(cameras), indent=1))
        for count, split in sparse_splits(len(cameras)).items():
            (folder / f"train_test_split_{count}.json").write_text(json.dumps(split))
        (folder / _MANIFEST).write_text(json.dumps(dict(settings), indent=1))
        if out.exists():
            os.replace(out, Path(scratch) / "old")
        os.replace(folder, out)
    return True


def _already_there(out: Path, settings: Mapping[str, object], overwrite: bool) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    manifest = out / _MANIFEST
    if not manifest.is_file():
        raise UserError(f"{out} exists and holds no procedural scene. Name a new folder for the scene.")
    found = json.loads(manifest.read_text())
    if found == json.loads(json.dumps(dict(settings))):
        return True
    if overwrite:
        return False
    raise UserError(
        f"{out} holds a scene made with other settings: {found} instead of {dict(settings)}. Name a new folder, or "
        "give --overwrite to replace it."
    )


def frame_name(index: int) -> str:
    """File name (no ending) of a frame; counts from 1."""
    return f"frame_{index + 1:05d}"


def transforms(cameras: Sequence[Camera]) -> dict[str, object]:
    """The content of transforms.json; all cameras share the first one's intrinsics."""
    first = cameras[0]
    K = first.K.tolist()
    frames = [
        {
            "file_path": f"images/{frame_name(index)}.png",
            "transform_matrix": opengl_to_opencv(camera.c2w).tolist(),  # the mapping is its own inverse
        }
        for index, camera in enumerate(cameras)
    ]
    intrinsics = {
        "fl_x": K[0][0],
        "fl_y": K[1][1],
        "cx": K[0][2],
        "cy": K[1][2],
        "w": first.width,
        "h": first.height,
    }
    return {
        "camera_model": "OPENCV",
        **intrinsics,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "ply_file_path": "sparse_pc.ply",
        "frames": frames,
    }


def sparse_splits(count: int) -> dict[int, dict[str, list[int]]]:
    """Splits for few training views: every 8th frame is for tests, n of the others, evenly spread, for training."""
    test = list(range(0, count, _TEST_EVERY))
    train = [index for index in range(count) if index % _TEST_EVERY]
    return {
        n: {"train_ids": [train[round(i)] for i in np.linspace(0, len(train) - 1, n)], "test_ids": test}
        for n in _SPLITS
        if n <= len(train)
    }


def surface_points(
    cameras: Sequence[Camera], photos: Sequence[Photo], count: int
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """About `count` points [n, 3] on what the photos show, with the photos' colours [n, 3]: the same number of pixels
    of each photo, drawn with a fixed seed, moved to their exact depth."""
    rng = np.random.default_rng(0)
    share = max(1, count // len(photos))
    xyz, rgb = [], []
    for camera, photo in zip(cameras, photos, strict=True):
        seen = np.flatnonzero(photo.depth > 0)
        pick = rng.choice(seen, min(share, len(seen)), replace=False)
        depth = torch.from_numpy(photo.depth.astype(np.float64))[..., None]
        xyz.append(unproject(depth, camera).reshape(-1, 3).numpy()[pick])
        rgb.append(photo.rgb.reshape(-1, 3)[pick])
    return np.concatenate(xyz), np.concatenate(rgb)
