"""What a transforms.json says of its frames: read, completed, checked, and moved near the origin, all in float64."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genfusion_ns.cameras import Camera, invert_rigid, opengl_to_opencv
from genfusion_ns.data.photos import photo_size
from genfusion_ns.data.validate import validate_cameras, validate_scene
from genfusion_ns.data.views import FloatArray
from genfusion_ns.errors import UserError

PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
"""Camera models that become a pinhole when their distortion is removed."""
FISHEYES = ("OPENCV_FISHEYE", "FISHEYE624")
"""Likewise, by another formula."""
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
FAR = 100.0
"""Cameras whose mean lies this many of their spreads away from the origin lose digits in float32."""
WRITE_AGAIN = "Write the file again with genfusion-prepare or ns-process-data."


def read_transforms(path: Path) -> dict[str, Any]:
    """transforms.json as a dictionary, each frame with intrinsics that can be told from `camera_angle_x` or the photo.
    Raises UserError: no file, no JSON, no frames, or frames or intrinsics that can't be used, all offenders at once."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no valid JSON ({error}). {WRITE_AGAIN}") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("frames"), list) or not meta["frames"]:
        raise UserError(f"{path} lists no frames. {WRITE_AGAIN}")
    check_models(str(path), [frame_model(meta, frame) for frame in meta["frames"]])
    frames = []
    for number, frame in enumerate(meta["frames"]):
        try:
            frames.append(_completed(meta, frame, path.parent))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: frame {number} could not be read ({type(error).__name__}: {error}). Expected file_path, "
                "transform_matrix (4 x 4 numbers), and fl_x, fl_y in pixels (or camera_angle_x in radians) there or at "
                f"the top. {WRITE_AGAIN}"
            ) from None
    meta = {**meta, "frames": frames}
    _check_frames(path, meta)
    return meta


def frame_camera(path: Path, meta: dict[str, Any], frame: dict[str, Any]) -> tuple[Camera, FloatArray]:
    """The float64 camera of a frame of `read_transforms`, and its distortion as OpenCV's k1, k2, p1, p2, k3. Raises
    UserError: it is a fisheye, or its size or centre is not told."""
    known = {**meta, **frame}
    lacks = [key for key in ("w", "h", "cx", "cy") if known.get(key) is None]
    if lacks or frame_model(meta, frame) in FISHEYES:
        fault = f"lacks {', '.join(lacks)}" if lacks else "is a fisheye"
        raise UserError(f"{path}: {frame['file_path']} {fault}; expected a pinhole with w, h, cx, cy. {WRITE_AGAIN}")
    fx, fy, cx, cy = (float(known[key]) for key in ("fl_x", "fl_y", "cx", "cy"))
    K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    c2w = opengl_to_opencv(torch.tensor(frame["transform_matrix"], dtype=torch.float64))
    distortion = np.array([float(known.get(key) or 0.0) for key in ("k1", "k2", "p1", "p2", "k3")])
    return Camera(invert_rigid(c2w), K, int(known["w"]), int(known["h"])), distortion


def frame_model(meta: dict[str, Any], frame: Any) -> str:
    """Name of a frame's camera model."""
    own = frame.get("camera_model") if isinstance(frame, dict) else None
    return str(own or meta.get("camera_model") or "OPENCV")


def check_models(scene: str, models: list[str]) -> None:
    """Only pinholes and fisheyes can be trained on, and only one of the two kinds in a scene. Raises UserError: another
    model, or both kinds."""
    foreign = sorted(set(models) - {*PINHOLES, *FISHEYES})
    if foreign:
        raise UserError(
            f"{scene}: the camera model is {', '.join(foreign)}; expected one that becomes a pinhole without its "
            f"distortion: {', '.join((*PINHOLES, *FISHEYES))}. Cut perspective views out of the photos (panoramas: "
            "ns-process-data --camera-type equirectangular), or remove the distortion with COLMAP's image_undistorter."
        )
    if {model in FISHEYES for model in models} == {True, False}:
        raise UserError(
            f"{scene}: found the camera models {', '.join(sorted(set(models)))}; expected pinholes or fisheyes, not "
            "both in one scene. Remove the distortion with COLMAP's image_undistorter first."
        )


def far_offset(centres: FloatArray) -> FloatArray | None:
    """[3] the mean of camera centres [M, 3] where it is so far from the origin that float32 would lose their digits, as
    in georeferenced scenes; None where it is not."""
    middle = centres.mean(axis=0)
    spread = np.linalg.norm(centres - middle, axis=1).max()
    return middle if np.linalg.norm(middle) > FAR * spread else None


def centres_of(frames: list[dict[str, Any]]) -> FloatArray:
    """[M, 3] camera centres."""
    return np.array([np.asarray(frame["transform_matrix"], dtype=np.float64)[:3, 3] for frame in frames])


def stand_alone(meta: dict[str, Any], folder: Path, offset: FloatArray | None) -> dict[str, Any]:
    """The same scene for a file that lies elsewhere: absolute paths, no lists of splits, and without `offset`."""
    frames = []
    for frame in meta["frames"]:
        pose = np.array(frame["transform_matrix"], dtype=np.float64)
        if offset is not None:
            pose[:3, 3] -= offset
        paths = {
            key: str(folder.absolute() / frame[key])
            for key in ("file_path", "mask_path", "depth_file_path")
            if key in frame
        }
        frames.append({**frame, **paths, "transform_matrix": pose.tolist()})
    kept = {key: value for key, value in meta.items() if not key.endswith("_filenames")}
    if "ply_file_path" in kept:
        kept["ply_file_path"] = str(folder.absolute() / kept["ply_file_path"])
    return {**kept, "frames": frames}


def _completed(meta: dict[str, Any], frame: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The frame, with focal lengths from the field of view, size and centre from the photo where they are missing.

    Raises:
        KeyError, TypeError, ValueError: it lacks something, or holds no numbers.
    """
    pose = np.array(frame["transform_matrix"], dtype=np.float64)
    if pose.shape not in ((3, 4), (4, 4)):
        raise ValueError(f"transform_matrix has the shape {pose.shape}")
    known = {**meta, **frame}
    added: dict[str, Any] = {"file_path": str(frame["file_path"])}
    angles = {axis: known[f"camera_angle_{axis}"] for axis in "xy" if f"camera_angle_{axis}" in known}
    if "fl_x" not in known and "fl_y" not in known and "x" in angles:
        width, height = (known.get(key) for key in ("w", "h"))
        if width is None or height is None:
            size = photo_size(folder / frame["file_path"])
            if size is None:
                raise ValueError("camera_angle_x needs w and h, and the photo can't be read to tell them")
            width, height = size
            added |= {"w": width, "h": height}
        added["fl_x"] = _focal(width, angles["x"])
        added["fl_y"] = _focal(height, angles["y"]) if "y" in angles else added["fl_x"]
        added |= {key: side / 2 for key, side in (("cx", width), ("cy", height)) if key not in known}
    complete = {**known, **added}
    for key in ("fl_x", "fl_y", *(name for name in ("w", "h", "cx", "cy", *DISTORTION) if name in complete)):
        float(complete[key])
    np.array(complete.get("distortion_params", []), dtype=np.float64)
    return {**frame, **added}


def _focal(side: float, angle: float) -> float:
    return 0.5 * float(side) / math.tan(0.5 * float(angle))


def _check_frames(path: Path, meta: dict[str, Any]) -> None:
    """Check poses and intrinsics as the file has them."""
    known = [{**meta, **frame} for frame in meta["frames"]]
    names = [Path(frame["file_path"]) for frame in known]
    poses = np.stack([np.array(frame["transform_matrix"], dtype=np.float64).reshape(-1, 4)[:3] for frame in known])
    K = np.stack([np.diag([float(frame["fl_x"]), float(frame["fl_y"]), 1.0]) for frame in known])
    sizes = [[frame.get(key) for key in ("w", "h")] for frame in known]
    measured = np.array(sizes, dtype=np.float64) if all(None not in size for size in sizes) else None
    distortion = [frame.get("distortion_params") or [frame.get(key, 0.0) for key in DISTORTION] for frame in known]
    try:
        validate_cameras(names, poses, K, sizes=measured, distortion=distortion, scene=str(path))
    except UserError:
        if measured is not None:
            # The photos' faults belong into the same message; the datamanager, which checks them, is never reached.
            files = [path.parent / name for name in names]
            validate_scene(files, poses, K, *measured.astype(int).T, distortion=distortion, scene=str(path))
        raise
