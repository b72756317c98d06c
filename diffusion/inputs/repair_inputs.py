"""Checks what a caller hands to the pipeline, and brings it to one shape: batched float32 tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.inputs.preprocess import given_range_disparity, minmax_disparity, percentile_disparity, to_network
from diffusion.inputs.source_views import CHANNELS

# Renderers overshoot a little; what lies further out than this is in another unit.
TOLERANCE = 0.01

OUTPUT_TYPES = ("pt", "np")


@dataclass
class RepairInputs:
    """A batch of one clip: `rgb` [1,T,H,W,3] in [0, 1]; `depth` and `alpha` [1,T,H,W,1] or None; photos `references`
    [h,w,3] in [0, 1]; `warped` [1,T,S,8,H,W] or None, see `source_views`."""

    rgb: Tensor
    depth: Tensor | None
    alpha: Tensor | None
    references: list[Tensor]
    warped: Tensor | None


def check_inputs(
    rgb: Any,
    depth: Any,
    alpha: Any,
    references: Any,
    device: torch.device,
    warped: Any = None,
    needed: bool = True,
) -> RepairInputs:
    """Arguments of `RGBDVideoRepairPipeline.__call__` -> checked tensors on `device`; `needed`: without references
    nothing can be made.

    Raises:
        UserError: for wrong shapes, values out of range or not finite.
    """
    frames = _tensor(rgb, "rgb", device)
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise UserError(f"rgb has the shape {_shape(rgb)}; expected [T,H,W,3], nothing of size 0")
    _check_range(frames, "rgb")
    size = list(frames.shape[:3])
    depths = None if depth is None else _map(_tensor(depth, "depth", device, is_image=False), "depth", size)
    if depths is not None and float(depths.min()) < 0:
        low = float(depths.min())
        raise UserError(f"depth goes down to {low:.4g}; expected positive depth, and 0 where there is nothing")
    opacity = None if alpha is None else _map(_tensor(alpha, "alpha", device), "alpha", size)
    if opacity is not None:
        _check_range(opacity, "alpha")
    photos = _photos(references, device, needed)
    return RepairInputs(frames[None], depths, opacity, photos, _warped(warped, size, device))


def _map(tensor: Tensor, name: str, size: list[int]) -> Tensor:
    """Depth or opacity of every pixel, [1,T,H,W,1]."""
    if list(tensor.shape) != [*size, 1]:
        raise UserError(f"{name} has the shape {_shape(tensor)}; expected {[*size, 1]} to go with rgb")
    _check_finite(tensor, name)
    return tensor[None]


def _warped(value: Any, size: list[int], device: torch.device) -> Tensor | None:
    """What photos show, [1,T,S,8,H,W]."""
    if value is None:
        return None
    tensor = _tensor(value, "warped", device, is_image=False)
    length, height, width = size
    if tensor.ndim != 5 or len(tensor) != length or tensor.shape[2:] != (CHANNELS, height, width):
        raise UserError(
            f"warped has the shape {_shape(value)}; expected [T,S,{CHANNELS},{height},{width}] to go with rgb"
        )
    _check_finite(tensor, "warped")
    return tensor[None]


def network_clips(inputs: RepairInputs, disparity: str | tuple[float, float], has_depth: bool) -> tuple[Tensor, Tensor]:
    """What the networks see of the renderings.

    Args:
        inputs: checked.
        disparity: the rule, "minmax" or "percentile", or the disparities that map to -1 and 1.
        has_depth: whether the autoencoder has a depth channel.

    Returns:
        The frames [B, 4 (or 3), T, H, W] in [-1, 1], and their opacity [B, 1, T, H, W] in [0, 1].

    Raises:
        UserError: if `disparity` is neither.
    """
    rgb, depth, alpha = inputs.rgb, inputs.depth, inputs.alpha
    channels = [2 * rgb - 1]
    if has_depth:
        unknown = torch.zeros_like(rgb[..., :1])
        channels.append(unknown if depth is None else _normalised_disparity(depth, disparity))
    if alpha is None:
        alpha = torch.ones_like(rgb[..., :1]) if depth is None else (depth > 0).float()
    return to_network(torch.cat(channels, dim=-1)), to_network(alpha.clamp(0, 1))


def _normalised_disparity(depth: Tensor, rule: str | tuple[float, float]) -> Tensor:
    if rule == "minmax":
        return minmax_disparity(depth).values
    if rule == "percentile":
        return percentile_disparity(depth).values
    if isinstance(rule, str):
        raise UserError(f"the disparity rule is {rule!r}; expected 'minmax' or 'percentile'")
    if len(rule) != 2 or not 0 <= rule[0] < rule[1]:
        raise UserError(f"disparity_range is {rule}; expected (low, high) with 0 <= low < high")
    return given_range_disparity(depth, *rule).values


def _photos(value: Any, device: torch.device, needed: bool) -> list[Tensor]:
    """Photos given as [h,w,3], [n,h,w,3] or a list of [h,w,3]."""
    if value is None:
        if not needed:
            return []
        raise UserError("no reference was given; expected at least one photo [h,w,3] of the scene")
    if isinstance(value, Sequence):
        photos = [_tensor(v, "reference", device) for v in value]
    else:
        tensor = _tensor(value, "reference", device)
        photos = list(tensor) if tensor.ndim == 4 else [tensor]
    if not photos:
        raise UserError("the list of references is empty; expected at least one photo [h,w,3]")
    for photo in photos:
        if photo.ndim != 3 or photo.shape[-1] != 3 or 0 in photo.shape:
            raise UserError(f"a reference has the shape {_shape(photo)}; expected [h,w,3] or [n,h,w,3]")
        _check_range(photo, "reference")
    return photos


def _tensor(value: Any, name: str, device: torch.device, is_image: bool = True) -> Tensor:
    """Anything numeric -> float32. An image in uint8 is taken as 0..255."""
    if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.number):
        value = torch.as_tensor(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        raise UserError(f"{name} is a {type(value).__name__}; expected a torch tensor or a numpy array of numbers")
    scale = 255.0 if is_image and value.dtype == torch.uint8 else 1.0
    return value.detach().to(device, torch.float32) / scale


def _check_range(tensor: Tensor, name: str) -> None:
    _check_finite(tensor, name)
    low, high = float(tensor.min()), float(tensor.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise UserError(f"{name} lies in [{low:.4g}, {high:.4g}]; expected [0, 1] (or uint8)")


def _check_finite(tensor: Tensor, name: str) -> None:
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise UserError(f"{name} holds {bad} NaN or infinite values of {tensor.numel()}; expected finite numbers")


def _shape(value: Any) -> list[int]:
    return list(value.shape)


def check_numbers(
    steps: int,
    bounds: tuple[int, int],
    scale: float,
    rescale: float,
    eta: float | None,
    vae_chunk: int,
    output_type: str,
) -> None:
    """Raise UserError unless the plain arguments of a call of the pipeline are in range; steps lie within `bounds`."""
    for name, value, least in (("num_inference_steps", steps, bounds[0]), ("vae_chunk", vae_chunk, 1)):
        if value < least or value != int(value):
            raise UserError(f"{name} is {value}; expected a whole number of at least {least}")
    if steps > bounds[1]:
        raise UserError(f"num_inference_steps is {steps}; expected {bounds[1]} at most")
    if not math.isfinite(scale):
        raise UserError(f"guidance_scale is {scale}; expected a finite number, 1 = no guidance")
    for name, share in (("guidance_rescale", rescale), ("eta", eta)):
        if share is not None and not 0 <= share <= 1:
            raise UserError(f"{name} is {share}; expected a number in [0, 1]")
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"output_type is {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}")


def check_shape(name: str, given: Tensor, wanted: tuple[int, ...]) -> None:
    """Raise UserError unless a tensor has the wanted shape."""
    if tuple(given.shape) != wanted:
        raise UserError(f"{name} has the shape {list(given.shape)}; expected {list(wanted)}")
