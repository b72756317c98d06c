"""Cameras of a capture in Nerfstudio's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genfusion_ns.cameras import Camera, invert_rigid, opengl_to_opencv
from genfusion_ns.errors import UserError

PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
"""Camera models whose distortion, if any, is OpenCV's k1, k2, p1, p2, k3."""


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
