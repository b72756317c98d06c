"""From decoded frames in [-1, 1] to images and disparity in [0, 1]: pure functions."""

from __future__ import annotations

from torch import Tensor


def split_frames(decoded: Tensor) -> tuple[Tensor, Tensor | None]:
    """Decoded clips [B, 4 (or 3), T, H, W] in about [-1, 1] -> rgb [B, T, H, W, 3], disparity [B, T, H, W, 1] or None.

    Both are clamped to [0, 1], float32. The disparity is relative: 0 is the farthest point of the clip (or nothing
    there), 1 the nearest. A three-channel model (the RGB ablation) has no disparity.
    """
    unit = ((decoded.float().clamp(-1, 1) + 1) / 2).movedim(1, -1)
    return unit[..., :3].contiguous(), unit[..., 3:4].contiguous() if unit.shape[-1] > 3 else None
