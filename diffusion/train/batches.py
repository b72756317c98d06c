"""From stored pairs to what the networks are trained on: windows, augmentation, normalisation. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.errors import UserError
from diffusion.evidence import AGREED, WARPED, no_evidence
from diffusion.filling import fill_clip
from diffusion.preprocess import given_range_disparity, percentile_disparity
from diffusion.train.shards import Pair


@dataclass(frozen=True)
class RepairBatch:
    """Clips in network space, where everything lies in [-1, 1].

    `rendered`, `target` [B, 4, T, H, W]; `opacity` [B, 1, T, H, W] in [0, 1]; `depth_known` [B, 1, T, H, W] in {0, 1},
    where the target's disparity is true; `evidence` [B, 10, T, H, W] in [0, 1]; `photos` [B, 3, h, w].
    """

    rendered: Tensor
    target: Tensor
    opacity: Tensor
    depth_known: Tensor
    evidence: Tensor
    photos: Tensor

    def to(self, device: torch.device) -> RepairBatch:
        """The same on another device."""
        return RepairBatch(**{name: value.to(device) for name, value in vars(self).items()})

    def where(self, chosen: Tensor) -> RepairBatch:
        """The clips that a mask [B] names."""
        return RepairBatch(**{name: value[chosen] for name, value in vars(self).items()})


def generator_of(*keys: Any) -> torch.Generator:
    """A generator that follows from the keys alone."""
    digest = hashlib.blake2b("/".join(map(str, keys)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def network_pair(pair: Pair, photo_size: tuple[int, int], fill_holes: bool = False) -> RepairBatch:
    """A pair as a batch of one.

    The disparities' range is that of the rendering, by percentiles, as in the pipeline: the target's are put into the
    same range, and clamped. Where the true depth is unknown the target repeats the rendering's disparity.

    Args:
        photo_size: height and width that the photo is brought to.
        fill_holes: as in the pipeline that is trained.
    """
    rendered_depth, target_depth = pair.render_depth[None].float(), pair.target_depth[None].float()
    rendered = percentile_disparity(rendered_depth)
    low, high = float(rendered.low[0]), float(rendered.high[0])
    known = (target_depth > 0) & (high > low)
    target = given_range_disparity(target_depth, low, high).values
    target = torch.where(known, target, rendered.values)
    photo = _unit(pair.reference[0]).movedim(-1, 0)[None]
    photo = F.interpolate(photo, size=photo_size, mode="bilinear", antialias=True)
    frames = _channels_first(torch.cat([2 * _unit(pair.render_rgb)[None] - 1, rendered.values], dim=-1))
    opacity = _channels_first(_unit(pair.render_alpha)[None])
    return RepairBatch(
        rendered=fill_clip(frames, opacity) if fill_holes else frames,
        target=_channels_first(torch.cat([2 * _unit(pair.target_rgb)[None] - 1, target], dim=-1)),
        opacity=opacity,
        depth_known=_channels_first(known.float()),
        evidence=_channels_first(_unit(pair.warped)[None]),
        photos=2 * photo - 1,
    )


def forget_evidence(batch: RepairBatch, share: float, generator: torch.Generator) -> RepairBatch:
    """The same without what photos show, for a random `share` of the clips: callers may not know it."""
    forgotten = (torch.rand(len(batch.rendered), generator=generator) < share).reshape(-1, 1, 1, 1, 1)
    evidence = torch.where(forgotten.to(batch.evidence.device), no_evidence(batch.rendered), batch.evidence)
    return replace(batch, evidence=evidence)


def joined(batches: Sequence[RepairBatch]) -> RepairBatch:
    """Several batches of equal size as one."""
    return RepairBatch(**{name: torch.cat([getattr(b, name) for b in batches]) for name in vars(batches[0])})


def window(pair: Pair, frames: int, height: int, width: int, generator: torch.Generator) -> Pair:
    """A random window of a pair, of every frame or, where there are enough, half of the time of every second (captures
    move further between photos than films do); the photo stays whole.

    Raises:
        UserError: if the pair is smaller than the window.
    """
    wanted, found = (frames, height, width), tuple(pair.render_rgb.shape[:3])
    if any(w > f for w, f in zip(wanted, found, strict=True)):
        raise UserError(
            f"a stage asks for windows of {wanted} (frames, height, width), but a pair of "
            f"{pair.provenance.get('scene', '?')} is {found}; make larger pairs, or set smaller stages"
        )
    stride = 1 + _draw(2, generator) if 2 * frames <= found[0] else 1
    lengths = (stride * (frames - 1) + 1, height, width)
    t, y, x = (_draw(f - w + 1, generator) for w, f in zip(lengths, found, strict=True))
    cut = (slice(t, t + lengths[0], stride), slice(y, y + height), slice(x, x + width))
    return _mapped(pair, lambda clip: clip[cut])


def augment(pair: Pair, generator: torch.Generator) -> Pair:
    """Mirror (half of the time), run backwards (half), and recolour (half: channels permuted, each dimmed by up to
    40 %; black stays black, because it stands for what was not rendered)."""
    if _draw(2, generator):
        pair = replace(_mapped(pair, lambda clip: clip.flip(2)), reference=pair.reference.flip(2))
    if _draw(2, generator):
        pair = _mapped(pair, lambda clip: clip.flip(0))
    if _draw(2, generator):
        order = torch.randperm(3, generator=generator)
        gain = 1 - 0.4 * torch.rand(3, generator=generator)

        def recoloured(image: Tensor) -> Tensor:
            return (image[..., order] * gain).round().to(torch.uint8)

        names = ("render_rgb", "target_rgb", "reference")
        warped = pair.warped.clone()
        for colour in (WARPED, AGREED):
            warped[..., colour] = recoloured(warped[..., colour])
        pair = replace(pair, **{name: recoloured(getattr(pair, name)) for name in names}, warped=warped)
    return pair


_CLIPS = ("render_rgb", "render_depth", "render_alpha", "target_rgb", "target_depth", "warped")


def _mapped(pair: Pair, function: Any) -> Pair:
    return replace(pair, **{name: function(getattr(pair, name)) for name in _CLIPS})


def _unit(image: Tensor) -> Tensor:
    return image.float() / 255


def _channels_first(clip: Tensor) -> Tensor:
    return clip.movedim(-1, 1).contiguous()


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
