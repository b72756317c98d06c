"""The fusion network: one better frame from a rendering and from what photos show of it, and how sure it is."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from diffusion.inputs.filling import filled
from diffusion.inputs.source_views import CHANNELS

TOLERANCE = 0.06
"""Certainty is the probability that a colour is off by less than this (mean of its channels, in [0, 1])."""
FRAME_CHANNELS = 6
"""Of the frame's own maps: filled rendering (3), opacity, disparity, whether anything is rendered."""
FEWEST = 0.02
"""Opacity below which a rendering shows nothing."""


class Fused(NamedTuple):
    """A better clip."""

    rgb: Tensor
    """[B, T, 3, H, W] about [0, 1], not clamped."""
    disparity: Tensor
    """[B, T, 1, H, W] inverse z-depth in 1 / world units, > 0."""
    scale: Tensor
    """[B, T, 1, H, W] expected absolute error of the colour (of a Laplace distribution), > 0."""
    scale_before: Tensor
    """[B, T, 1, H, W] the same of the rendering with its holes filled."""

    @property
    def certainty(self) -> Tensor:
        """[B, T, 1, H, W] in [0, 1]: the probability that the colour is off by less than `TOLERANCE`."""
        return 1 - torch.exp(-TOLERANCE / self.scale)

    @property
    def gain(self) -> Tensor:
        """[B, T, 1, H, W] in [0, 1]: the share of the rendering's error that is expected to be gone."""
        return (1 - self.scale / self.scale_before).clamp(0, 1)


class FusionNetwork(ModelMixin, ConfigMixin):
    """A U-Net over half-size frames, mixed over time on its coarser levels.

    Photos are encoded one by one with shared weights, so that their number and order do not matter, and pooled. The
    output is a mean of the rendering and of the warped photos with learned weights (as in IBRNet, Wang et al. 2021),
    plus a residual.

    Args:
        widths: channels of the levels, from half size on; each level halves the size.
        source_width: channels of a photo's features.
        blocks: residual blocks of each level on the way down.
        trained_side: frames with a longer side are looked at on as many pixels; weights and residual are interpolated,
            so that detail comes from rendering and photos alone.
    """

    @register_to_config
    def __init__(
        self,
        widths: tuple[int, ...] = (32, 64, 112, 160),
        source_width: int = 24,
        blocks: tuple[int, ...] = (1, 1, 2, 3),
        trained_side: int = 320,
    ) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Conv2d(4 * FRAME_CHANNELS, first, 3, padding=1)
        self.source = nn.Sequential(
            nn.Conv2d(4 * (CHANNELS + 3), source_width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(source_width, source_width, 3, padding=1),
            nn.SiLU(),
        )
        self.pooled = nn.Conv2d(2 * source_width + 1, first, 1)
        self.down = nn.ModuleList(
            Level(width, count, mixes=i > 0) for i, (width, count) in enumerate(zip(widths, blocks, strict=True))
        )
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.up = nn.ModuleList(Level(width, 1, mixes=i > 0) for i, width in enumerate(widths[:-1]))
        self.weigh = nn.Sequential(nn.Conv2d(first + source_width, 32, 1), nn.SiLU(), nn.Conv2d(32, 4, 1))
        self.head = nn.Conv2d(first, 4 * HEAD, 3, padding=1)
        with torch.no_grad():
            for layer in (self.head, self.weigh[-1]):
                layer.get_parameter("weight").mul_(0.1)
                nn.init.zeros_(layer.get_parameter("bias"))

    @property
    def multiple(self) -> int:
        """Height and width are multiples of this."""
        return 2 ** len(self.config["widths"])

    def forward(self, rgb: Tensor, alpha: Tensor, disparity: Tensor, sources: Tensor) -> Fused:
        """Fuse clips; only the layers compute in the weights' precision.

        Args:
            rgb: [B, T, 3, H, W] renderings over black, in [0, 1]; H and W are multiples of `multiple`.
            alpha: [B, T, 1, H, W] in [0, 1].
            disparity: [B, T, 1, H, W] inverse rendered z-depth in 1 / world units, 0 = nothing.
            sources: [B, T, S, 8, H, W] of `source_views.warp_sources`; S = 0 for a scene without photos.
        """
        batch, frames = rgb.shape[:2]
        rgb, alpha, disparity = (x.flatten(0, 1) for x in (rgb, alpha, disparity))
        if not sources.shape[2]:  # a photo that shows nothing, to have something to pool
            sources = sources.new_zeros(*sources.shape[:2], 1, *sources.shape[3:])
        sources = sources.flatten(0, 1)
        unit = usual_disparity(disparity, sources, batch)
        disparity = disparity / unit
        sources = torch.cat([sources[:, :, :7], sources[:, :, 7:] / unit[:, None]], 2)
        clip = View(filled(rgb, alpha), alpha, disparity, sources)
        side = max(rgb.shape[-2:])
        maps, logits = self._maps(clip, frames) if side <= self.config["trained_side"] else self._coarse(clip, frames)
        return self._compose(maps, logits, clip, unit, batch)

    def _coarse(self, clip: View, frames: int) -> tuple[Tensor, Tensor]:
        """As `_maps`, found on fewer pixels."""
        height, width = clip.base.shape[-2:]
        scale = self.config["trained_side"] / max(height, width)
        size = tuple(max(self.multiple, round(n * scale / self.multiple) * self.multiple) for n in (height, width))
        maps, logits = self._maps(clip.shrunk(size), frames)
        maps, worth = (
            F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
            for x in (maps, logits.clamp_min(HIDDEN)[:, :, 0])
        )
        return maps, clip.masked(worth[:, :, None])

    def _maps(self, clip: View, frames: int) -> tuple[Tensor, Tensor]:
        """Residual, log error, log disparity and the rendering's log error [N, 6, H, W], and how much the rendering and
        each photo is worth, [N, S + 1, 1, H, W], -inf where a photo shows nothing."""
        own = torch.cat([2 * clip.base - 1, 2 * clip.alpha - 1, clip.disparity.clamp(0, 4), clip.shown], 1)
        x = self.stem(F.pixel_unshuffle(own, 2).to(self.dtype))
        features = self._sources(clip.sources, clip.base)
        x = F.silu(x + self.pooled(pooled(features, clip.sources[:, :, 3:4])))
        x = self._unet(x, frames)
        maps = F.pixel_shuffle(self.head(x), 2).float()
        return maps[:, 1:], clip.masked(self._worth(x, features, maps[:, :1]))

    def _sources(self, sources: Tensor, base: Tensor) -> Tensor:
        """[N, S, c, h, w] features of each photo, given the rendering [N, 3, H, W]."""
        count = sources.shape[1]
        offset = (sources[:, :, :3] - base[:, None]) * sources[:, :, 3:4]
        both = torch.cat([sources[:, :, :7], sources[:, :, 7:].clamp(0, 4), offset], 2).flatten(0, 1)
        return self.source(F.pixel_unshuffle(both, 2).to(self.dtype)).unflatten(0, (len(sources), count))

    def _unet(self, x: Tensor, frames: int) -> Tensor:
        kept = []
        for i, level in enumerate(self.down):
            x = level(x, frames)
            if i < len(self.shrink):
                kept.append(x)
                x = self.shrink[i](x)
        for i in reversed(range(len(self.grow))):
            x = kept[i] + F.interpolate(self.grow[i](x), scale_factor=2, mode="nearest")
            x = self.up[i](x, frames)
        return x

    def _worth(self, x: Tensor, features: Tensor, own: Tensor) -> Tensor:
        """[N, S + 1, 1, H, W] of features [N, c, h, w] and [N, S, c', h, w], and the rendering's worth [N, 1, H, W]."""
        count = features.shape[1]
        joined = torch.cat([x[:, None].expand(-1, count, -1, -1, -1), features], 2).flatten(0, 1)
        return torch.cat(
            [own[:, None], F.pixel_shuffle(self.weigh(joined), 2).float().unflatten(0, (len(x), count))], 1
        )

    def _compose(self, maps: Tensor, logits: Tensor, clip: View, unit: Tensor, batch: int) -> Fused:
        weights = logits.softmax(1)
        colours = torch.cat([clip.base[:, None], clip.sources[:, :, :3]], 1)
        rgb = (weights * colours).sum(1) + maps[:, :3]
        inverses = torch.cat([clip.disparity[:, None], clip.sources[:, :, 7:8]], 1)
        known = torch.cat([clip.shown[:, None], clip.sources[:, :, 3:4]], 1) * (weights + 1e-6)
        total = known.sum(1)
        # where nothing is known, what is usual in the clip
        mean = torch.where(total > 0, (known * inverses).sum(1) / total.clamp_min(1e-9), torch.ones_like(total))
        disparity = mean.clamp_min(1e-3) * torch.exp(maps[:, 4:5].clamp(-3, 3)) * unit
        scales = (torch.exp(maps[:, i : i + 1].clamp(-3, 4) - 3) for i in (3, 5))
        return Fused(*(x.unflatten(0, (batch, -1)) for x in (rgb, disparity, *scales)))


class View(NamedTuple):
    """N frames as the network sees them: `base` [N, 3, H, W] the rendering with its holes filled, `alpha` and
    `disparity` [N, 1, H, W] (in units of the clip's usual one), `sources` [N, S, 8, H, W]."""

    base: Tensor
    alpha: Tensor
    disparity: Tensor
    sources: Tensor

    @property
    def shown(self) -> Tensor:
        """[N, 1, H, W] 1.0 where anything is rendered."""
        return ((self.alpha > FEWEST) & (self.disparity > 0)).to(self.base)

    def masked(self, worth: Tensor) -> Tensor:
        """[N, S + 1, 1, H, W] with -inf where a photo shows nothing."""
        photos = worth[:, 1:].masked_fill(self.sources[:, :, 3:4] == 0, -torch.inf)
        return torch.cat([worth[:, :1], photos], 1)

    def shrunk(self, size: tuple[int, ...]) -> View:
        """On H' x W' pixels; a photo shows what it shows at most of a pixel, and its maps are means over that."""
        base, alpha, disparity = (F.interpolate(x, size, mode="area") for x in self[:3])
        photos = F.interpolate(self.sources.flatten(0, 1), size, mode="area")
        share = photos[:, 3:4]
        photos = photos / share.clamp_min(1e-6) * (share > 0.5)
        return View(base, alpha, disparity, photos.unflatten(0, self.sources.shape[:2]))


HIDDEN = -30.0
"""A logit that is as good as -inf, and can be interpolated."""
HEAD = 7
"""Maps of the head: the rendering's worth, a residual of colour (3), and logarithms of the error, of the disparity, and
of the rendering's error."""


class Level(nn.Module):
    """Residual blocks over space, and over time after the first where the level mixes frames."""

    def __init__(self, width: int, blocks: int, mixes: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.time = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0)) if mixes else None
        if self.time is not None:
            nn.init.zeros_(self.time.weight)
            nn.init.zeros_(self.time.get_parameter("bias"))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """[B * T, c, h, w] -> the same."""
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == 0 and self.time is not None and frames > 1:
                clip = x.unflatten(0, (-1, frames)).transpose(1, 2)
                x = x + self.time(F.silu(clip)).transpose(1, 2).flatten(0, 1)
        return x


class Block(nn.Module):
    """x + two convolutions of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        with torch.no_grad():
            self.second.weight.mul_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


def pooled(features: Tensor, shown: Tensor) -> Tensor:
    """Mean and maximum [N, 2 c + 1, h, w] of photos' features [N, S, c, h, w] where these show something (shown
    [N, S, 1, H, W], 1.0 or 0.0, at twice the size), and how many do."""
    count = features.shape[1]
    weight = F.avg_pool2d(shown.flatten(0, 1), 2).unflatten(0, (-1, count)).to(features.dtype)
    total = weight.sum(1)
    mean = (features * weight).sum(1) / total.clamp_min(1e-3)
    return torch.cat([mean, (features * weight).amax(1), total / 4], 1)


def usual_disparity(disparity: Tensor, sources: Tensor, batch: int) -> Tensor:
    """[N, 1, 1, 1] the mean disparity of each clip, of renderings [N, 1, H, W] and photos [N, S, 8, H, W] where they
    show anything: what the network calls 1, so that scenes of any unit look alike to it."""
    own, photos = disparity.unflatten(0, (batch, -1)), sources[:, :, 7].unflatten(0, (batch, -1))
    total = own.sum((1, 2, 3, 4)) + photos.sum((1, 2, 3, 4))
    count = (own > 0).sum((1, 2, 3, 4)) + (photos > 0).sum((1, 2, 3, 4))
    unit = torch.where(count > 0, total / count.clamp_min(1), torch.ones_like(total)).clamp_min(1e-9)
    return unit.repeat_interleave(own.shape[1])[:, None, None, None]
