"""The bridge between Nerfstudio's `Cameras` (OpenGL) and the core's `Camera` (OpenCV)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from nerfstudio.cameras.cameras import Cameras

from genfusion_ns.cameras import Camera, invert_rigid, opengl_to_opencv, project
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


def opening_view(cameras: Sequence[Camera], frustum: float = 0.0) -> tuple[Camera, torch.Tensor]:
    """The view to look at a scene from first, and the point [3] to orbit: straight ahead of it, as far away as what the
    captured views look at.

    It is a captured view near to the cameras' mean place and direction, so that it looks where most of them do, moved
    ahead of the photo that the viewer draws before it, and least hidden by the others.

    Args:
        frustum: the viewer's scale of the drawn frusta, in world units; 0 = none are drawn.
    """
    places, axes = positions(cameras), directions(cameras)
    off_centre = (places - places.mean(0)).norm(dim=-1) / scene_extent(cameras) - 0.5 * axes @ axes.mean(0)
    thumbnails = [thumbnail(camera, frustum) for camera in cameras]
    moved = [ahead(camera, 1.5 * shape[0, 2]) for camera, shape in zip(cameras, thumbnails, strict=True)]
    corners = [
        shape @ camera.c2w[:3, :3].T + camera.position for camera, shape in zip(cameras, thumbnails, strict=True)
    ]
    hidden = torch.tensor([sum(covered(view, other) for other in corners) for view in moved])
    # a tenth of the picture weighs as much as half of the scene's extent
    camera = moved[int((off_centre + 5.0 * hidden).argmin())]
    distance = (focus_point(cameras) - camera.position) @ camera.w2c[2, :3]
    return camera, camera.position + camera.w2c[2, :3] * distance.clamp_min(0.1 * scene_extent(cameras))


def ahead(camera: Camera, distance: torch.Tensor | float) -> Camera:
    """The camera moved along its optical axis, in world units."""
    w2c = camera.w2c.clone()
    w2c[2, 3] -= distance
    return replace(camera, w2c=w2c)


def thumbnail(camera: Camera, scale: float) -> torch.Tensor:
    """[4, 3] corners, in the camera's axes, of the photo that Nerfstudio's viewer draws at the base of a frustum: viser
    makes pyramids of volume 4 scale^3 whatever the lens is."""
    if scale <= 0:
        return torch.zeros(4, 3)
    y = float(camera.K[0, 2] / camera.K[0, 0])  # Nerfstudio hands the horizontal field of view over as the vertical
    x = y * float(camera.K[0, 2] / camera.K[1, 2])
    corners = torch.tensor([[-x, -y, 1.0], [x, -y, 1.0], [x, y, 1.0], [-x, y, 1.0]])
    return corners * scale / (x * y / 3.0) ** (1.0 / 3.0)


def covered(view: Camera, corners: torch.Tensor) -> float:
    """Share of a view's picture that the box around four world points [4, 3] covers, those behind it left out."""
    pixels, depth = project(corners, view)
    if not bool((depth > 0).any()):
        return 0.0
    size = torch.tensor([view.width, view.height])
    visible = pixels[depth > 0]
    low, high = visible.amin(0).clamp_min(0.0), visible.amax(0).minimum(size)
    return float((high - low).clamp_min(0.0).prod() / size.prod())
