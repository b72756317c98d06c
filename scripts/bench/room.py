"""The scene that is rendered and trained: splats on the walls of a cube, cameras inside, photos of coloured clouds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genfusion_ns.cameras import Camera, invert_rigid, look_at
from genfusion_ns.gaussians.parameters import init_gaussians
from genfusion_ns.seeding import generator

SH_DEGREE = 3


@dataclass
class Room:
    """About as many splats lie behind each pixel as in a trained scene."""

    splats: dict[str, Tensor]
    """Raw parameters."""
    cameras: list[Camera]
    photos: list[Tensor]
    """[H, W, 3] in [0, 1]."""

    @classmethod
    def make(cls, count: int, size: tuple[int, int], device: torch.device, views: int = 8) -> Room:
        """`count` splats, and photos of `size` (width, height) in pixels."""
        random = generator(0, "bench room")
        xyz = torch.rand(count, 3, generator=random) * 2 - 1
        wall = torch.randint(3, (count, 1), generator=random)
        xyz.scatter_(1, wall, xyz.gather(1, wall).sign() + 0.02 * torch.randn(count, 1, generator=random))
        splats = init_gaussians(xyz, torch.rand(count, 3, generator=random), SH_DEGREE)
        width, height = size
        K = torch.tensor([[0.7 * width, 0, width / 2], [0, 0.7 * width, height / 2], [0, 0, 1]])
        cameras, photos = [], []
        for angle in torch.arange(views) * (2 * torch.pi / views):
            position = torch.stack([0.6 * angle.cos(), 0.6 * angle.sin(), torch.tensor(0.1)])
            pose = look_at(position, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
            cameras.append(Camera(invert_rigid(pose), K, width, height).to(device))
            clouds = torch.rand(1, 3, 9, 16, generator=random)
            photo = torch.nn.functional.interpolate(clouds, (height, width), mode="bicubic").clamp(0, 1)
            photos.append(photo[0].permute(1, 2, 0).contiguous().to(device))
        return cls({name: x.to(device) for name, x in splats.items()}, cameras, photos)
