"""One place for camera conventions.

The core works in OpenCV axes (x right, y down, z forward) and calls the two rigid transforms `c2w` and `w2c`.
Nerfstudio stores OpenGL axes (x right, y up, z backward); `opengl_to_opencv` is the only bridge. Pixel centres lie at
half-integers: the top-left pixel covers [0, 1) x [0, 1) and its centre is (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """One pinhole view; the principal point may lie anywhere, the image may have any size."""

    w2c: Tensor
    """[4, 4] rigid world-to-camera transform, OpenCV axes."""
    K: Tensor
    """[3, 3] intrinsics in pixels: fx, fy on the diagonal, cx, cy in the last column, no skew."""
    width: int
    """Image width in pixels."""
    height: int
    """Image height in pixels."""

    @property
    def c2w(self) -> Tensor:
        """[4, 4] camera-to-world transform, OpenCV axes."""
        return invert_rigid(self.w2c)

    @property
    def position(self) -> Tensor:
        """[3] camera centre in the world."""
        return -self.w2c[:3, :3].T @ self.w2c[:3, 3]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Camera:
        """The same view with its tensors on another device or in another dtype."""
        return replace(self, w2c=self.w2c.to(device, dtype), K=self.K.to(device, dtype))

    def resized(self, width: int, height: int) -> Camera:
        """The same field of view on another pixel grid; rows of K scale with the sides."""
        K = self.K.clone()
        K[0] *= width / self.width
        K[1] *= height / self.height
        return replace(self, K=K, width=width, height=height)

    def limited(self, max_side: int) -> Camera:
        """The same field of view on at most `max_side` pixels a side, at least one; smaller views stay as they are."""
        scale = min(1.0, max_side / max(self.width, self.height))
        return self.resized(max(1, round(self.width * scale)), max(1, round(self.height * scale)))

    def window(self, x: int, y: int, width: int, height: int) -> Camera:
        """The window whose top-left pixel is (x, y); it may reach beyond the image (a wider field of view)."""
        shift = torch.zeros_like(self.K)
        shift[0, 2], shift[1, 2] = x, y
        return replace(self, K=self.K - shift, width=width, height=height)


def invert_rigid(pose: Tensor) -> Tensor:
    """Inverse of rigid transforms [..., 4, 4] by transposing the rotation (exact where torch.inverse is not)."""
    rotation = pose[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(pose)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ pose[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1.0
    return inverse


def opengl_to_opencv(c2w: Tensor) -> Tensor:
    """Camera-to-world [..., 3|4, 4] from OpenGL to OpenCV axes as [..., 4, 4]; the mapping is its own inverse."""
    flipped = torch.zeros(*c2w.shape[:-2], 4, 4, dtype=c2w.dtype, device=c2w.device)
    flipped[..., :3, :] = c2w[..., :3, :]
    flipped[..., :3, 1:3].neg_()  # y and z
    flipped[..., 3, 3] = 1.0
    return flipped


def look_at(position: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """c2w [4, 4], OpenCV axes, at `position` [3] with z towards `target` [3] and y (down) opposite to `up` [3].

    Raises:
        ValueError: position and target coincide, or up is parallel to the viewing direction.
    """
    forward = target - position
    right = torch.linalg.cross(forward, up)
    if not forward.norm() > 0 or not right.norm() > 1e-6 * forward.norm() * up.norm():
        raise ValueError(
            f"look_at needs three directions: position {position.tolist()}, target {target.tolist()} and "
            f"up {up.tolist()} lie on one line. Move the camera or choose another up axis."
        )
    forward = forward / forward.norm()
    right = right / right.norm()
    c2w = torch.eye(4, dtype=position.dtype, device=position.device)
    c2w[:3, 0], c2w[:3, 1], c2w[:3, 2], c2w[:3, 3] = right, torch.linalg.cross(forward, right), forward, position
    return c2w


def pixel_rays(camera: Camera) -> Tensor:
    """[H, W, 3] directions in camera axes through the pixel centres, scaled so that z = 1."""
    fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
    x = (torch.arange(camera.width, device=camera.K.device, dtype=camera.K.dtype) + 0.5 - cx) / fx
    y = (torch.arange(camera.height, device=camera.K.device, dtype=camera.K.dtype) + 0.5 - cy) / fy
    return torch.stack(
        [x.expand(camera.height, -1), y[:, None].expand(-1, camera.width), x.new_ones(camera.height, camera.width)], -1
    )


def unproject(depth: Tensor, camera: Camera) -> Tensor:
    """World points [H, W, 3] of a z-depth map [H, W, 1] (world units along the optical axis)."""
    points = pixel_rays(camera) * depth
    return (points - camera.w2c[:3, 3]) @ camera.w2c[:3, :3]


def project(points: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Pixel positions [..., 2] and z-depths [...] of world points [..., 3]; a point with depth <= 0 is behind."""
    local = points @ camera.w2c[:3, :3].T + camera.w2c[:3, 3]
    depth = local[..., 2]
    homogeneous = local @ camera.K.T
    safe = torch.where(depth.abs() > 1e-12, depth, torch.full_like(depth, 1e-12))
    return homogeneous[..., :2] / safe[..., None], depth
