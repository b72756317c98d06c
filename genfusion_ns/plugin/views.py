"""The bridge between Nerfstudio's `Cameras` (OpenGL) and the core's `Camera` (OpenCV)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nerfstudio.cameras.cameras import Cameras

from genfusion_ns.cameras import Camera, invert_rigid, opengl_to_opencv
from genfusion_ns.geometry import directions, focus_point, positions, scene_extent


def core_camera(cameras: Cameras, device: torch.device | str = "cpu") -> Camera:
    """The core's view of one Nerfstudio camera ([] or [1] batch)."""
    camera = cameras.reshape((1,))
    K = torch.zeros(3, 3, device=device)
    K[0, 0], K[1, 1] = camera.fx[0, 0], camera.fy[0, 0]
    K[0, 2], K[1, 2], K[2, 2] = camera.cx[0, 0], camera.cy[0, 0], 1.0
    w2c = invert_rigid(opengl_to_opencv(camera.camera_to_worlds[0].to(device)))
    return Camera(w2c=w2c, K=K, width=int(camera.width[0, 0]), height=int(camera.height[0, 0]))


def core_cameras(cameras: Cameras, device: torch.device | str = "cpu") -> list[Camera]:
    """All cameras of a Nerfstudio batch [N]."""
    return [core_camera(cameras[i : i + 1], device) for i in range(cameras.shape[0])]


def opening_view(cameras: Sequence[Camera]) -> tuple[Camera, torch.Tensor]:
    """The captured view to look at a scene from first, and the point [3] to orbit: straight ahead of it, as far away as
    what the captured views look at.

    It is the one nearest to the cameras' mean place and direction, so that it looks where most of them do.
    """
    places, axes = positions(cameras), directions(cameras)
    off_centre = (places - places.mean(0)).norm(dim=-1) / scene_extent(cameras) - 0.5 * axes @ axes.mean(0)
    camera = cameras[int(off_centre.argmin())]
    axis = camera.w2c[2, :3]
    distance = (focus_point(cameras) - camera.position) @ axis
    return camera, camera.position + axis * distance.clamp_min(0.1 * scene_extent(cameras))
