"""Camera paths in the JSON that Nerfstudio's viewer saves and `ns-render camera-path` reads.

Poses there are camera-to-world, 16 floats row by row, OpenGL axes, in the run's own (oriented and scaled) world; the
field of view is vertical, in degrees; the principal point is always the centre.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from genfusion_ns.cameras import Camera, invert_rigid, opengl_to_opencv
from genfusion_ns.errors import UserError


def to_nerfstudio_camera_path(cameras: Sequence[Camera], fps: float = 24.0, is_cycle: bool = False) -> dict[str, Any]:
    """The JSON object for a path of one camera or more, one frame each, of the first one's size: the format has no room
    for another."""
    width, height = cameras[0].width, cameras[0].height
    return {
        "camera_type": "perspective",
        "render_width": width,
        "render_height": height,
        "fps": fps,
        "seconds": len(cameras) / fps,
        "is_cycle": is_cycle,
        "smoothness_value": 0.0,
        "keyframes": [],
        "crop": None,
        "camera_path": [_frame(camera, width / height) for camera in cameras],
    }


def _frame(camera: Camera, aspect: float) -> dict[str, Any]:
    half = camera.height / (2 * float(camera.K[1, 1]))
    c2w = opengl_to_opencv(camera.c2w.double())
    return {"camera_to_world": c2w.flatten().tolist(), "fov": math.degrees(2 * math.atan(half)), "aspect": aspect}


def from_nerfstudio_camera_path(path: dict[str, Any]) -> list[Camera]:
    """The cameras of such a JSON object, float32, principal point in the centre. Raises UserError: a field is missing
    or wrong, or the path is not a perspective one."""
    kind = path.get("camera_type", "perspective")
    if kind != "perspective":
        raise UserError(f"the camera path is of type '{kind}'; expected 'perspective'. Save it so in the viewer.")
    try:
        width, height = int(path["render_width"]), int(path["render_height"])
        frames = [(_pose(frame["camera_to_world"]), float(frame["fov"])) for frame in path["camera_path"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the camera path cannot be read: {type(error).__name__} {error}. Expected render_width, render_height "
            "and camera_path with camera_to_world (16 numbers) and fov for each frame, as the viewer saves it."
        ) from error
    if not frames or width < 1 or height < 1 or not all(0 < fov < 180 for _, fov in frames):
        raise UserError(
            f"the camera path has {len(frames)} frames of {width} x {height}; expected at least 1, a positive size, "
            "and fields of view between 0 and 180 degrees."
        )
    cameras = []
    for w2c, fov in frames:
        focal = height / (2 * math.tan(math.radians(fov) / 2))
        K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
        cameras.append(Camera(w2c, K, width, height))
    return cameras


def _pose(values: Sequence[float]) -> torch.Tensor:
    """w2c [4, 4] float32 from 16 (or, as some tools write, 4 x 4) numbers in OpenGL axes."""
    c2w = torch.tensor(values, dtype=torch.float64)
    if c2w.numel() != 16:
        raise ValueError(f"camera_to_world has {c2w.numel()} numbers")
    c2w = c2w.reshape(4, 4)
    rotation = c2w[:3, :3]
    if not bool(c2w.isfinite().all()) or not torch.allclose(rotation @ rotation.T, torch.eye(3).double(), atol=1e-3):
        raise ValueError("camera_to_world is not a rotation and a position")
    return invert_rigid(opengl_to_opencv(c2w)).float()


def read_camera_path(file: Path) -> list[Camera]:
    """The cameras of a JSON file that the viewer saved. Raises UserError: no such file, no JSON, or not a camera
    path."""
    try:
        path = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as a camera path: {error}.") from error
    if not isinstance(path, dict):
        raise UserError(f"{file} holds a {type(path).__name__}; expected the JSON object that the viewer saves.")
    return from_nerfstudio_camera_path(path)
