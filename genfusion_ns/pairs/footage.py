"""The photos along one path, from a procedural scene or a real capture, in a world whose cameras lie within +-1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from genfusion_ns.cameras import Camera, invert_rigid, opengl_to_opencv
from genfusion_ns.data.photos import check_photo
from genfusion_ns.errors import UserError
from genfusion_ns.geometry import positions

SUPERSAMPLE = 3

PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
"""Camera models whose distortion, if any, is OpenCV's k1, k2, p1, p2, k3."""


@dataclass(frozen=True)
class Footage:
    """F photos along a path, in order."""

    cameras: list[Camera]
    """float64 cameras of the photos, centres within +-1."""
    rgb: NDArray[np.uint8]
    """[F, H, W, 3]."""
    depth: NDArray[np.float32] | None
    """[F, H, W] exact z-depth in the cameras' world, 0 = nothing there; None = unknown."""
    names: list[str]
    """File names of the photos, as a COLMAP model calls them."""


def procedural_footage(family: str, seed: int, frames: int, width: int, height: int) -> Footage:
    """Photograph a scene of `family`.

    Raises:
        UserError: there is no such family.
    """
    from genfusion_ns.data.procedural.families import make_family_scene
    from genfusion_ns.data.procedural.render import Studio

    staged = make_family_scene(family, seed)
    cameras = staged.cameras(frames, width, height)
    studio = Studio(staged.scene)
    photos = [studio.photo(camera, SUPERSAMPLE) for camera in cameras]
    unit, scale = within_unit(cameras)
    return Footage(
        unit,
        np.stack([photo.rgb for photo in photos]),
        np.stack([photo.depth for photo in photos]) * np.float32(scale),
        [f"frame_{index:05d}" for index in range(frames)],
    )


def capture_footage(folder: Path, seed: int, frames: int, width: int, height: int) -> Footage:
    """Photos of a capture along a path of neighbours, resized and cut to `width` x `height`.

    The path starts at a random photo and goes on to the nearest one not yet visited, so that it is as smooth as the
    capture allows; `seed` also chooses where a photo of other proportions is cut.

    Raises:
        UserError: no transforms.json, no intrinsics, a lens that is no pinhole with distortion, too few or unreadable
            photos.
    """
    meta = read_transforms(folder)
    rng = np.random.default_rng([seed, 0x6361])
    listed = sorted(meta["frames"], key=lambda frame: Path(frame["file_path"]).name)
    if len(listed) < frames:
        raise UserError(f"{folder} has {len(listed)} photos; expected at least {frames}, one per frame of a path.")
    cameras = [frame_camera(folder, meta, frame) for frame in listed]
    path = neighbour_path(cameras, frames, rng)
    corner = rng.random(2)
    photos, cut = zip(
        *(
            _fitted(folder / listed[i]["file_path"], cameras[i], bend(meta, listed[i]), width, height, corner)
            for i in path
        ),
        strict=True,
    )
    unit, _ = within_unit(cut)
    return Footage(unit, np.stack(photos), None, [Path(listed[i]["file_path"]).name for i in path])


def neighbour_path(cameras: Sequence[Camera], count: int, rng: np.random.Generator) -> list[int]:
    """`count` views from a random one on, each the most similar to the one before of those not yet taken; turning
    back costs, so that the path goes on the way it went."""
    centres = positions(cameras).numpy()
    axes = torch.stack([camera.w2c[2, :3] for camera in cameras]).numpy()
    spread = max(float(np.linalg.norm(centres - centres.mean(0), axis=1).max()), 1e-9)
    path = [int(rng.integers(len(cameras)))]
    heading = np.zeros(3)
    while len(path) < count:
        here = path[-1]
        offset = (centres - centres[here]) / spread
        distance = np.linalg.norm(offset, axis=1)
        cost = distance + 0.5 * (1.0 - axes @ axes[here]) - 0.3 * (offset @ heading)
        cost[path] = np.inf
        following = int(cost.argmin())
        step = offset[following]
        heading = 0.5 * heading + 0.5 * step / max(float(np.linalg.norm(step)), 1e-9)
        path.append(following)
    return path


def within_unit(cameras: Sequence[Camera]) -> tuple[list[Camera], float]:
    """The cameras moved to their mean and scaled so that no coordinate of a centre exceeds 1, and that scale."""
    centres = positions(cameras)
    centre = centres.mean(0)
    reach = float((centres - centre).abs().max())
    scale = 1.0 / reach if reach > 1e-9 else 1.0
    moved = []
    for camera in cameras:
        c2w = camera.c2w.clone()
        c2w[:3, 3] = (c2w[:3, 3] - centre) * scale
        moved.append(replace(camera, w2c=invert_rigid(c2w)))
    return moved, scale


def read_transforms(folder: Path) -> dict[str, Any]:
    """A capture's transforms.json. Raises UserError where it is none, or its lens is no pinhole."""
    path = folder / "transforms.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        meta["frames"][0]["transform_matrix"]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{path} is no Nerfstudio scene ({type(error).__name__}: {error}). Give a folder made by genfusion-prepare "
            "or ns-process-data."
        ) from error
    model = meta.get("camera_model", "OPENCV")
    if model not in PINHOLES:
        raise UserError(f"{path} has the camera model {model}; expected one of {', '.join(PINHOLES)}.")
    return meta


def frame_camera(folder: Path, meta: dict[str, Any], frame: dict[str, Any]) -> Camera:
    """The float64 camera of one frame of transforms.json. Raises UserError where something is missing."""
    both = {**meta, **{key: value for key, value in frame.items() if value is not None}}
    try:
        fx, fy, cx, cy, w, h = (float(both[key]) for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"))
        c2w = opengl_to_opencv(torch.tensor(frame["transform_matrix"], dtype=torch.float64))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / 'transforms.json'}: {frame.get('file_path')} lacks a pose or one of fl_x, fl_y, cx, cy, w, h "
            f"({error}). Write the file again with genfusion-prepare or ns-process-data."
        ) from error
    K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    return Camera(invert_rigid(c2w), K, int(w), int(h))


def bend(meta: dict[str, Any], frame: dict[str, Any]) -> NDArray[np.float64]:
    """OpenCV's k1, k2, p1, p2, k3 of a frame of transforms.json, 0 where not given."""
    return np.array([float(frame.get(key) or meta.get(key) or 0.0) for key in ("k1", "k2", "p1", "p2", "k3")])


def _fitted(
    path: Path,
    camera: Camera,
    distortion: NDArray[np.float64],
    width: int,
    height: int,
    corner: NDArray[np.floating],
) -> tuple[NDArray[np.uint8], Camera]:
    """A photo and its camera, shrunk to cover width x height, then cut at `corner` (shares of the slack)."""
    check = check_photo(path, (camera.width, camera.height))
    if check.fault is not None:
        raise UserError(f"{path}: {check.found}. Mend the photo, or take its frame out of transforms.json.")
    with Image.open(path) as image:
        photo = image.convert("RGB")
    if distortion.any():
        # Nerfstudio's way: the largest rectangle that the straightened photo fills
        K, whole = camera.K.numpy(), (camera.width, camera.height)
        straight, (x, y, w, h) = cv2.getOptimalNewCameraMatrix(K, distortion, whole, 0)
        photo = Image.fromarray(cv2.undistort(np.asarray(photo), K, distortion, None, straight)).crop(
            (x, y, x + w, y + h)
        )
        camera = replace(camera, K=torch.from_numpy(straight)).window(x, y, w, h)
    scale = max(width / camera.width, height / camera.height)
    size = max(width, round(camera.width * scale)), max(height, round(camera.height * scale))
    small = photo.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.LANCZOS)
    x, y = (int(slack * share) for slack, share in zip((size[0] - width, size[1] - height), corner, strict=True))
    return np.asarray(small)[y : y + height, x : x + width].copy(), camera.resized(*size).window(x, y, width, height)
