"""From images in [0, 1] and metric depth to what the networks take: pure functions.

Clips are [B, T, H, W, C] outside and [B, C, T, H, W] in network space, where everything lies in [-1, 1].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.errors import UserError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
TAIL = 0.02
"""Share of the valid pixels that `percentile_disparity` clamps at each end."""


class Disparity(NamedTuple):
    """Disparity of clips in network space, with what is needed to undo the normalisation.

    `values` [B, T, H, W, 1] in [-1, 1], -1 where nothing was rendered. `low` and `high` [B] are the disparities
    (1 / depth) that map to -1 and 1. A clip whose valid depth is constant maps to 0; an empty one to -1.
    """

    values: Tensor
    low: Tensor
    high: Tensor


def minmax_disparity(depth: Tensor) -> Disparity:
    """The official rule: 1/depth of each clip, min-max over its valid pixels to [-1, 1]; holes become -1.

    Args:
        depth: [B, T, H, W, 1], any unit, <= 0 where nothing was rendered.
    """
    return _normalised(depth, 0.0)


def percentile_disparity(depth: Tensor) -> Disparity:
    """As `minmax_disparity`, between the `TAIL` and the `1 - TAIL` quantile (nearest rank), clamped.

    One floater right in front of a camera has a disparity hundreds of times that of the scene; under min-max the
    whole scene then falls into the lowest few hundredths of the range. Quantiles ignore it.
    """
    return _normalised(depth, TAIL)


def given_range_disparity(depth: Tensor, low: float, high: float) -> Disparity:
    """As `minmax_disparity`, with the same disparities mapping to -1 and 1 in every clip; beyond them it is clamped."""
    disparity, valid = _disparity(depth)
    return _to_range(disparity, valid, *(disparity.new_full((len(depth),), bound) for bound in (low, high)))


def _normalised(depth: Tensor, tail: float) -> Disparity:
    disparity, valid = _disparity(depth)
    bounds = [_bounds(clip[mask], tail) for clip, mask in zip(disparity, valid, strict=True)]
    low, high = (torch.stack(column) for column in zip(*bounds, strict=True))
    return _to_range(disparity, valid, low, high)


def _disparity(depth: Tensor) -> tuple[Tensor, Tensor]:
    """1/depth, and where it is valid; 0 elsewhere."""
    depth = depth.float()
    valid = depth > 0
    return torch.where(valid, 1.0 / (depth + 1e-10), 0.0), valid


def _to_range(disparity: Tensor, valid: Tensor, low: Tensor, high: Tensor) -> Disparity:
    """Map [low, high] of each clip to [-1, 1]; a range of no width to 0; holes to -1."""
    shape = (-1,) + (1,) * (disparity.ndim - 1)
    span = (high - low).reshape(shape)
    unit = (disparity - low.reshape(shape)) / torch.where(span > 0, span, 1.0)
    unit = torch.where(span > 0, unit.clamp(0, 1), 0.5)
    return Disparity(torch.where(valid, 2 * unit - 1, -1.0), low, high)


def _bounds(valid_disparity: Tensor, tail: float) -> tuple[Tensor, Tensor]:
    """Lower and upper quantile of the values [N]; zeros if there are none."""
    count = valid_disparity.numel()
    if count == 0:
        return valid_disparity.new_zeros(()), valid_disparity.new_zeros(())
    if tail == 0:
        return valid_disparity.min(), valid_disparity.max()
    # torch.quantile refuses more than 2^24 numbers, which a long clip exceeds.
    rank = 1 + math.floor(tail * (count - 1))
    low = valid_disparity.kthvalue(rank).values
    return low, valid_disparity.kthvalue(count + 1 - rank).values


def resize_rgb(rgb: Tensor, height: int, width: int) -> Tensor:
    """[B, T, H, W, 3] -> [B, T, height, width, 3], bilinear, corners not aligned, no antialias (the official rule)."""
    return _resize(rgb, (height, width), "bilinear")


def resize_depth(depth: Tensor, height: int, width: int) -> Tensor:
    """[B, T, H, W, 1] -> [B, T, height, width, 1], nearest neighbour (the official rule): edges stay sharp."""
    return _resize(depth, (height, width), "nearest")


def _resize(frames: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if tuple(frames.shape[2:4]) == size:
        return frames
    flat = frames.flatten(0, 1).movedim(-1, 1)
    kwargs = {"align_corners": False} if mode == "bilinear" else {}
    flat = F.interpolate(flat, size=size, mode=mode, **kwargs)
    return flat.movedim(1, -1).unflatten(0, frames.shape[:2])


def to_network(frames: Tensor) -> Tensor:
    """Channels first: [B, T, H, W, C] -> [B, C, T, H, W]. Values are kept."""
    return frames.movedim(-1, 1).contiguous()


class Letterbox(NamedTuple):
    """How many rows and columns were added on each side; `crop` takes them off again."""

    top: int
    bottom: int
    left: int
    right: int

    def pad(self, clip: Tensor) -> Tensor:
        """[B, C, T, H, W] -> padded with repeated edge pixels."""
        return F.pad(clip, (self.left, self.right, self.top, self.bottom, 0, 0), mode="replicate")

    def crop(self, clip: Tensor) -> Tensor:
        """[B, C, T, H, W] padded -> the kept part, exactly where `pad` put it."""
        height, width = clip.shape[3:]
        return clip[..., self.top : height - self.bottom, self.left : width - self.right]


def letterbox(height: int, width: int, multiple: int) -> Letterbox:
    """The padding that makes height and width multiples of `multiple`, shared between both sides (the odd row or column
    goes to the bottom or right)."""
    rows, columns = -height % multiple, -width % multiple
    return Letterbox(top=rows // 2, bottom=rows - rows // 2, left=columns // 2, right=columns - columns // 2)


def clip_pixels(images: Tensor, size: int = 224) -> Tensor:
    """CLIP's input as the official code makes it, in plain torch.

    Each side that shrinks by a factor f is blurred first: sigma = max((f - 1) / 2, 0.001), kernel = max(4 sigma, 3)
    made odd, reflecting at the border. Then bicubic to a square with corners aligned (the aspect ratio is not kept),
    and CLIP's mean and standard deviation.

    Args:
        images: [N, 3, H, W] in [-1, 1], any size.
        size: side of the square that the encoder takes, in pixels.

    Returns:
        [N, 3, size, size], float32.
    """
    images = images.float()
    factors = [side / size for side in images.shape[-2:]]
    if max(factors) > 1:
        images = _blur_axis(_blur_axis(images, 2, factors[0]), 3, factors[1])
    images = F.interpolate(images, size=(size, size), mode="bicubic", align_corners=True)
    mean = images.new_tensor(CLIP_MEAN).reshape(1, 3, 1, 1)
    std = images.new_tensor(CLIP_STD).reshape(1, 3, 1, 1)
    return ((images + 1) / 2 - mean) / std


def _blur_axis(images: Tensor, axis: int, factor: float) -> Tensor:
    """Gaussian blur along one axis of [N, C, H, W] before it shrinks by `factor`."""
    sigma = max((factor - 1) / 2, 0.001)
    taps = int(max(4 * sigma, 3))
    taps += 1 - taps % 2
    offsets = torch.arange(taps, device=images.device, dtype=images.dtype) - taps // 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = weights / weights.sum()
    reach = taps // 2
    if images.shape[axis] <= reach:
        raise UserError(
            f"the reference image is {images.shape[-2]}x{images.shape[-1]} pixels; expected at least {reach + 1} "
            f"per side at this aspect ratio. Give a larger reference."
        )
    padding = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
    kernel = weights.reshape((1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)).repeat(images.shape[1], 1, 1, 1)
    return F.conv2d(F.pad(images, padding, mode="reflect"), kernel, groups=images.shape[1])


def latent_tokens(latents: Tensor, patch: int) -> Tensor:
    """A reference's latents as tokens: patches of patch x patch positions, with where they are.

    The resampler sees a set, so each token carries its place: sines and cosines of its row and column (both in
    [0, 1]) at 1, 2, 4 and 8 half-turns, 16 numbers in all.

    Args:
        latents: [N, C, h, w]; h and w divisible by `patch`.

    Returns:
        [N, h * w / patch^2, C * patch^2 + 16].
    """
    tokens = F.unfold(latents, kernel_size=patch, stride=patch).transpose(1, 2)
    rows, columns = latents.shape[-2] // patch, latents.shape[-1] // patch
    place = _grid_code(rows, columns).to(tokens)
    return torch.cat([tokens, place.expand(len(tokens), -1, -1)], dim=-1)


TOKEN_PLACE_WIDTH = 16


def _grid_code(rows: int, columns: int) -> Tensor:
    """[rows * columns, 16] sines and cosines of the cells' centres."""
    row = (torch.arange(rows) + 0.5) / rows
    column = (torch.arange(columns) + 0.5) / columns
    centres = torch.stack(torch.meshgrid(row, column, indexing="ij"), dim=-1).reshape(-1, 2, 1)
    angles = (centres * math.pi * torch.tensor([1.0, 2.0, 4.0, 8.0])).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def latent_opacity(alpha: Tensor, factor: int) -> Tensor:
    """Mean opacity under each latent position: [B, 1, T, H, W] in [0, 1] -> [B, 1, T, H / factor, W / factor]."""
    return F.avg_pool3d(alpha, kernel_size=(1, factor, factor))
