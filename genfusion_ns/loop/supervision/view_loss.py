"""What a generated view teaches."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.gaussians.losses import photometric, ssi_disparity
from genfusion_ns.loop.view_buffer import GeneratedFrame
from genfusion_ns.raster.api import Render

SSIM_WEIGHT = 0.5
"""Share s of 1 - SSIM in the loss, GenFusion's for sparse views."""
BLOCK = 3
"""Side of the blocks of pixels whose means are compared. Repaired frames are right in the large: their detail differs
from frame to frame, and splats that follow each pixel of it become duller. With every pixel, 6 photos of llff_fern lost
0.5 dB and their LPIPS rose by 10 %."""


def generated_view_loss(render: Render, frame: GeneratedFrame, weight: float, depth_weight: float = 0.0) -> Tensor:
    """weight * frame.weight * [(1 - s) L1 + s (1 - SSIM) + d SSI(disparity)], every pixel by its confidence, colours as
    means of blocks.

    GenFusion eqs. 5 and 6, with a confidence, a frame weight and blocks that it doesn't have.

    Args:
        render: `frame.camera` drawn over black, as the frame itself was.
        weight: lambda(k), `LoopConfig.generated_weight`.
        depth_weight: d, `LoopConfig.depth_weight`.

    Returns:
        scalar, differentiable with respect to the render.
    """
    device = render.color.device
    confidence = frame.confidence_map(device)
    color, known = block_means(render.color, confidence)
    image, _ = block_means(frame.image(device), confidence)
    loss = photometric(color, image, SSIM_WEIGHT, known)
    if depth_weight:
        trust = confidence * render.alpha.detach()
        loss = loss + depth_weight * ssi_disparity(render.depth, frame.disparity_map(device), trust)
    return weight * frame.weight * loss


def block_means(image: Tensor, confidence: Tensor, side: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Means of an image [H, W, C] over blocks, weighted by confidence [H, W, 1], and the blocks' mean confidence:
    [h, w, C] and [h, w, 1] with h = ceil(H / side). Blocks at the border are means of the pixels that they have."""
    known = _pooled(confidence, side)
    return _pooled(image * confidence, side) / known.clamp_min(1e-6), known


def _pooled(image: Tensor, side: int) -> Tensor:
    means = F.avg_pool2d(image.permute(2, 0, 1)[None], side, ceil_mode=True, count_include_pad=False)
    return means[0].permute(1, 2, 0)
