"""A Nerfstudio scene from a COLMAP reconstruction without lens distortion.

Everything is in COLMAP's world: `transforms.json` (camera-to-world, OpenGL axes), `sparse_pc.ply` and `sparse/0`. The
axis swap of ns-process-data is not applied; Nerfstudio turns scenes upright when it loads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genfusion_ns.cameras import opengl_to_opencv
from genfusion_ns.data.lazy_pycolmap import pycolmap
from genfusion_ns.data.views import FloatArray
from genfusion_ns.files import write_atomic

PLY_NAME = "sparse_pc.ply"


def write_scene_files(reconstruction: pycolmap.Reconstruction, scene: Path) -> None:
    """Write `transforms.json` and `sparse_pc.ply` of a reconstruction of PINHOLE or SIMPLE_PINHOLE cameras into
    `scene`, whose photos lie in `images/`."""
    points = reconstruction.points3D.values()
    xyz = np.array([point.xyz for point in points], dtype=np.float64).reshape(-1, 3)
    write_ply(scene / PLY_NAME, xyz, np.array([point.color for point in points], dtype=np.uint8).reshape(-1, 3))
    write_atomic(scene / "transforms.json", json.dumps(transforms(reconstruction), indent=1).encode())


def transforms(reconstruction: pycolmap.Reconstruction) -> dict[str, Any]:
    """The content of `transforms.json`: frames sorted by name; intrinsics at the top where all frames share them."""
    images = sorted((image for image in reconstruction.images.values() if image.has_pose), key=lambda i: i.name)
    lenses = [_intrinsics(reconstruction.cameras[image.camera_id]) for image in images]
    shared = lenses[0] if lenses and all(lens == lenses[0] for lens in lenses) else {}
    frames = []
    for image, lens in zip(images, lenses, strict=True):
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3] = torch.from_numpy(image.cam_from_world().inverse().matrix())
        own = {} if shared else lens
        c2w = opengl_to_opencv(pose).tolist()
        frames.append(
            {"file_path": f"images/{image.name}", "transform_matrix": c2w, "colmap_im_id": image.image_id} | own
        )
    return {"camera_model": "PINHOLE", **shared, "ply_file_path": PLY_NAME, "frames": frames}


def write_ply(path: Path, xyz: FloatArray, rgb: np.ndarray) -> None:
    """Write coloured points [P, 3], colours uint8, as a binary PLY file."""
    rows = np.empty(len(xyz), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows["xyz"], rows["rgb"] = xyz, rgb
    names = [f"property float {axis}" for axis in "xyz"] + [f"property uchar {c}" for c in ("red", "green", "blue")]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(xyz)}", *names, "end_header"]
    write_atomic(path, "\n".join([*head, ""]).encode() + rows.tobytes())


def _intrinsics(camera: pycolmap.Camera) -> dict[str, float | int]:
    fx, fy = (camera.focal_length,) * 2 if camera.model_name == "SIMPLE_PINHOLE" else camera.params[:2]
    return {
        "w": camera.width,
        "h": camera.height,
        "fl_x": float(fx),
        "fl_y": float(fy),
        "cx": camera.principal_point_x,
        "cy": camera.principal_point_y,
    }
