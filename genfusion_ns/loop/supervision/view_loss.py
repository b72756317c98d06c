"""What a generated view teaches."""

from __future__ import annotations

from torch import Tensor

from genfusion_ns.gaussians.losses import photometric, ssi_disparity
from genfusion_ns.loop.view_buffer import GeneratedFrame
from genfusion_ns.raster.api import Render

SSIM_WEIGHT = 0.5
"""Share s of 1 - SSIM in the loss, GenFusion's for sparse views."""


def generated_view_loss(render: Render, frame: GeneratedFrame, weight: float, depth_weight: float = 0.1) -> Tensor:
    """weight * frame.weight * [(1 - s) L1 + s (1 - SSIM) + d SSI(disparity)], every pixel by its confidence.

    GenFusion eqs. 5 and 6, with a confidence and a frame weight that it doesn't have.

    Args:
        render: `frame.camera` drawn over black, as the frame itself was.
        weight: lambda(k), `LoopConfig.generated_weight`.
        depth_weight: d, `LoopConfig.depth_weight`.

    Returns:
        scalar, differentiable with respect to the render.
    """
    device = render.color.device
    confidence = frame.confidence_map(device)
    loss = photometric(render.color, frame.image(device), SSIM_WEIGHT, confidence)
    if depth_weight:
        trust = confidence * render.alpha.detach()
        loss = loss + depth_weight * ssi_disparity(render.depth, frame.disparity_map(device), trust)
    return weight * frame.weight * loss
