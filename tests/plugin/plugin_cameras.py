"""The way back from the core's cameras to Nerfstudio's."""

from __future__ import annotations

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from genfusion_ns.cameras import Camera, opengl_to_opencv


def nerfstudio_camera(camera: Camera) -> Cameras:
    """A Nerfstudio camera batch [1] that shows what a core `Camera` shows."""
    c2w = opengl_to_opencv(camera.c2w)[None, :3]
    fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
    return Cameras(
        camera_to_worlds=c2w,
        fx=fx[None, None],
        fy=fy[None, None],
        cx=cx[None, None],
        cy=cy[None, None],
        width=torch.tensor([[camera.width]], device=c2w.device),
        height=torch.tensor([[camera.height]], device=c2w.device),
        camera_type=CameraType.PERSPECTIVE,
    )
