"""What a generated view teaches."""

from __future__ import annotations

from torch import Tensor

from genfusion_ns.gaussians.losses import photometric, ssi_disparity
from genfusion_ns.loop.perceptual import PerceptualLoss
from genfusion_ns.loop.view_buffer import GeneratedFrame
from genfusion_ns.raster.api import Render


def generated_view_loss(
    render: Render,
    frame: GeneratedFrame,
    weight: float,
    ssim_weight: float = 0.5,
    depth_weight: float = 0.1,
    perceptual: PerceptualLoss | None = None,
) -> Tensor:
    """weight * frame.weight * [(1 - s) L1 + s (1 - SSIM) + d SSI(disparity) + p LPIPS], every pixel by its confidence.

    GenFusion eqs. 5 and 6, with a confidence, a frame weight and an optional LPIPS that it doesn't have.

    Args:
        render: `frame.camera` drawn over black, as the frame itself was.
        weight: lambda(k), `LoopConfig.generated_weight`.
        perceptual: LPIPS and its weight p; None = 0.

    Returns:
        scalar, differentiable with respect to the render.
    """
    device = render.color.device
    confidence = frame.confidence_map(device)
    loss = photometric(render.color, frame.image(device), ssim_weight, confidence)
    if perceptual is not None:
        loss = loss + perceptual.weight * perceptual(render.color, frame.image(device), confidence)
    if depth_weight:
        trust = confidence * render.alpha.detach()
        loss = loss + depth_weight * ssi_disparity(render.depth, frame.disparity_map(device), trust)
    return weight * frame.weight * loss
