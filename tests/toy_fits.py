"""Training fits of a few pixels: two planes, and renderings of them that are wrong in known ways."""

from __future__ import annotations

from pathlib import Path

import torch
from two_planes import clip_of, photo, pose

from diffusion.train.fits import TrainingFit, to_bytes, to_half, write_fit


def toy_fit(seed: int = 0, frames: int = 6, width: int = 48, height: int = 32, photos: int = 2) -> TrainingFit:
    """Two numbers of steps; renderings are the truth with noise, and nothing in a corner. Some depth is unknown."""
    generator = torch.Generator().manual_seed(seed)
    cameras, rgb, depth = clip_of([pose((0.1 * i - 0.2, 0.02 * seed, 0.0)) for i in range(frames)], width, height)
    alpha = torch.ones_like(depth)
    alpha[:, :8, :8] = 0
    noisy = (rgb + 0.1 * torch.randn(2, *rgb.shape, generator=generator)).clamp(0, 1)
    sources = [photo(pose((0.3 * v - 0.2, 0.0, 0.0)), width, height, 0.5 + 0.1 * v) for v in range(photos)]
    truth = depth.clone()
    truth[:, -3:] = 0
    return TrainingFit(
        render_rgb=to_bytes(noisy * alpha),
        render_depth=to_half(torch.stack([depth * alpha, 1.05 * depth * alpha])),
        render_alpha=to_bytes(alpha).expand(2, *alpha.shape).contiguous(),
        target_rgb=to_bytes(rgb),
        target_depth=to_half(truth),
        cameras=cameras,
        sources=[sources, sources],
        provenance={"scene": f"toy{seed}", "variant": "sparse2", "train": [0, frames - 1], "steps": [50, 200]},
    )


def write_toys(folder: Path, count: int = 2, **changes: int) -> list[Path]:
    """So many fits on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"toy{seed}_fit000.safetensors" for seed in range(count)]
    for seed, path in enumerate(paths):
        write_fit(path, toy_fit(seed, **changes))
    return paths
