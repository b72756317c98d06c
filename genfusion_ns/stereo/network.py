"""The stereo network: learned features, a plane sweep over all source views, context, and finer planes at half size.

Two scales, as in cascaded cost volumes (CasMVSNet), with 2-D regularisation in which planes are channels
(SimpleRecon). At a quarter of the photo's size features are compared on planes spread evenly in inverse depth from
infinity to the nearest surface; depths of tracks enter the volume beside the comparison. A U-Net with the photo's own
context turns the volume into a distribution over planes, so that it completes where nothing matches. At half size a
few planes around the result are compared again, and its convex upsampling gives every pixel of the photo a depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genfusion_ns.stereo.sweep import sample_planes, scaled_projection, swept_pixels

GROUPS = 4
FINE_PLANES = 9
FINE_STEP = 0.3
"""Distance of the fine planes, in coarse planes."""
UNSEEN = -1.0
"""Similarity where no source sees the place; features that agree have 1."""
MULTIPLE = 16
"""Both sides of the photos must be multiples of this."""


class StereoOutput(NamedTuple):
    """What the network says of a batch of B reference photos."""

    logits: Tensor
    """[B, D, H/4, W/4] of the planes, from infinity on."""
    coarse: Tensor
    """[B, 1, H/4, W/4] inverse depth."""
    fine: Tensor
    """[B, 1, H/2, W/2] inverse depth."""
    inverse_depth: Tensor
    """[B, 1, H, W] inverse depth at the photo's size."""
    confidence: Tensor
    """[B, 1, H/2, W/2] logit of the probability that the depth is within 5 %."""
    log_scale: Tensor
    """[B, 1, H/2, W/2] log of the expected relative error."""


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(outputs // 8, outputs), nn.SiLU()
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _block(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.GroupNorm(channels // 8, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.second(self.first(x)))


def _unit_groups(x: Tensor) -> Tensor:
    """Each of the GROUPS groups of channels at unit length, so that correlations are cosines."""
    return F.normalize(x.unflatten(1, (GROUPS, -1)), dim=2).flatten(1, 2)


def _up(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class PhotoFeatures(NamedTuple):
    """What one batch of photos is compared by; computed once per photo, however often it is a source."""

    half: Tensor
    """[B, 24, H/2, W/2]."""
    context: Tensor
    """[B, 48, H/4, W/4]."""
    eighth: Tensor
    """[B, 80, H/8, W/8]."""
    match: Tensor
    """[B, 32, H/4, W/4] for the coarse planes."""
    match2: Tensor
    """[B, 16, H/2, W/2] for the fine ones."""


class _Features(nn.Module):
    """A pyramid of a photo, and matching features at its two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.at2 = nn.Sequential(nn.Conv2d(3, 24, 5, 2, 2), nn.SiLU(), _Residual(24))
        self.at4 = nn.Sequential(_block(24, 48, 2), _Residual(48))
        self.at8 = nn.Sequential(_block(48, 80, 2), _Residual(80))
        self.lateral = nn.Conv2d(80, 48, 1)
        self.merge = _block(48, 48)
        self.match = nn.Conv2d(48, 32, 1)
        self.lift = nn.Conv2d(48, 24, 1)
        self.match2 = nn.Sequential(_block(24, 24), nn.Conv2d(24, 16, 1))

    def forward(self, photo: Tensor) -> PhotoFeatures:
        x2 = self.at2(photo)
        x4 = self.at4(x2)
        x8 = self.at8(x4)
        merged = self.merge(x4 + _up(self.lateral(x8), x4))
        fine = self.match2(x2 + _up(self.lift(merged), x2))
        return PhotoFeatures(x2, merged, x8, _unit_groups(self.match(merged)), _unit_groups(fine))


class StereoNetwork(nn.Module):
    """See the module's docstring; about 3 M weights."""

    def __init__(self, planes: int = 64) -> None:
        super().__init__()
        self.planes = planes
        self.features = _Features()
        self.plane = nn.Sequential(nn.Conv2d(2 * GROUPS + 5, 16, 1), nn.SiLU(), nn.Conv2d(16, 3, 1))
        self.enter = nn.Sequential(_block(2 * planes + 48, 72), _Residual(72))
        self.down8 = _block(72, 112, 2)
        self.at8 = nn.Sequential(_block(112 + 80, 128), _Residual(128))
        self.at16 = nn.Sequential(_block(128, 160, 2), _Residual(160), _Residual(160))
        self.at32 = nn.Sequential(_block(160, 160, 2), _Residual(160))
        self.back16 = _block(160 + 160, 160)
        self.back8 = nn.Sequential(_block(160 + 128, 128), _Residual(128))
        self.back4 = nn.Sequential(_block(128 + 72, 72), _Residual(72))
        self.logits = nn.Conv2d(72, planes, 3, 1, 1)
        self.plane_fine = nn.Sequential(nn.Conv2d(2 * GROUPS + 1, 12, 1), nn.SiLU(), nn.Conv2d(12, 3, 1))
        self.carry = nn.Conv2d(72, 24, 1)
        self.fine = nn.Sequential(_block(2 * FINE_PLANES + 24 + 24 + 3, 48), _Residual(48))
        self.fine_head = nn.Conv2d(48, FINE_PLANES + 1 + 2 + 36, 3, 1, 1)

    def forward(
        self, photo: Tensor, sources: Tensor, projections: Tensor, nearest: Tensor, tracks: Tensor
    ) -> StereoOutput:
        """Depth of `photo`.

        Args:
            photo: [B, 3, H, W] in [-1, 1], sides multiples of 16.
            sources: [B, S, 3, H', W'] in [-1, 1], S >= 0.
            projections: [B, S, 3, 4] from photo to sources, see `sweep.relative_projection`.
            nearest: [B] inverse depth of the nearest plane; the farthest is at infinity.
            tracks: [B, 1, H/4, W/4] inverse depth of tracks, negative where there is none.
        """
        described = [self.features(sources[:, s]) for s in range(sources.shape[1])]
        return self.compare_photos(self.features(photo), described, projections, nearest, tracks)

    def compare_photos(
        self,
        photo: PhotoFeatures,
        sources: Sequence[PhotoFeatures],
        projections: Tensor,
        nearest: Tensor,
        tracks: Tensor,
    ) -> StereoOutput:
        """As `forward`, from features that were computed once per photo; sources may be of different sizes."""
        ladder = torch.linspace(0, 1, self.planes, device=nearest.device, dtype=nearest.dtype)
        planes = (nearest[:, None] * ladder)[:, :, None, None].expand(-1, -1, *photo.match.shape[-2:])
        volume = compare(photo.match, [source.match for source in sources], projections, 0.25, planes)
        hint = _track_volume(tracks, nearest, self.planes)
        volume = self.plane(torch.cat([volume, hint], 1)).unflatten(3, photo.match.shape[-2:])

        x4 = self.enter(torch.cat([volume[:, 0], volume[:, 1], photo.context], 1))
        x8 = self.at8(torch.cat([self.down8(x4), photo.eighth], 1))
        x16 = self.at16(x8)
        y16 = self.back16(torch.cat([_up(self.at32(x16), x16), x16], 1))
        y8 = self.back8(torch.cat([_up(y16, x8), x8], 1))
        y4 = self.back4(torch.cat([_up(y8, x4), x4], 1))
        # what the planes themselves say goes straight to the result; the U-Net adds context
        logits = volume[:, 2] + self.logits(y4)
        index, peak = local_expectation(logits)
        step = nearest[:, None, None, None] / (self.planes - 1)
        return self._refined(logits, index * step, peak, y4, photo, sources, projections, step)

    def _refined(
        self,
        logits: Tensor,
        coarse: Tensor,
        peak: Tensor,
        y4: Tensor,
        photo: PhotoFeatures,
        sources: Sequence[PhotoFeatures],
        projections: Tensor,
        step: Tensor,
    ) -> StereoOutput:
        """Compare again on planes close to the coarse result, at half size."""
        half = photo.half
        start = _up(coarse, half).detach()
        offsets = (
            torch.linspace(-1, 1, FINE_PLANES, device=half.device, dtype=half.dtype) * FINE_STEP * (FINE_PLANES // 2)
        )
        planes = start + step * offsets[None, :, None, None]
        volume = compare(photo.match2, [source.match2 for source in sources], projections, 0.5, planes.clamp_min(0.0))
        volume = volume[:, : 2 * GROUPS + 1]
        volume = self.plane_fine(volume).unflatten(3, half.shape[-2:])
        spread = _up(torch.cat([peak, (logits.softmax(1) * logits.log_softmax(1)).sum(1, keepdim=True)], 1), half)
        place = start / (step * self.planes)
        x = self.fine(torch.cat([volume[:, 0], volume[:, 1], half, _up(self.carry(y4), half), spread, place], 1))
        head = self.fine_head(x)
        weight = (volume[:, 2] + head[:, :FINE_PLANES]).softmax(1)
        shift = (weight * offsets[None, :, None, None]).sum(1, keepdim=True) + head[:, FINE_PLANES : FINE_PLANES + 1]
        fine = (start + step * shift).clamp_min(0.0)
        full = convex_upsample(fine, head[:, FINE_PLANES + 3 :])
        confidence, log_scale = head[:, FINE_PLANES + 1 : FINE_PLANES + 3].split(1, dim=1)
        return StereoOutput(logits, coarse, fine, full, confidence, log_scale)


def compare(match: Tensor, sources: Sequence[Tensor], projections: Tensor, factor: float, planes: Tensor) -> Tensor:
    """How well the sources' features agree with the photo's on each plane.

    Args:
        match: [B, C, h, w] features of the photo.
        sources: S times [B, C, h', w'], features of the sources; may be none.
        projections: [B, S, 3, 4] between the photos at full size.
        factor: size of the features over the photos'.
        planes: [B, D, h, w] inverse depths.

    Returns:
        [B, 2 * GROUPS + 3, D, h * w]: mean and maximum over the sources of the correlation in groups of channels, how
        many sources see the place (a share), whether two do, and the log of how many pixels apart neighbouring planes
        lie in the source where that is most.
    """
    batch, channels, height, width = match.shape
    reference = match.view(batch, GROUPS, channels // GROUPS, 1, height * width)
    shape = (batch, GROUPS, planes.shape[1], height * width)
    total, best = match.new_zeros(shape), match.new_full(shape, UNSEEN)
    seen, parallax = match.new_zeros(shape[0], *shape[2:]), match.new_zeros(shape[0], *shape[2:])
    for s, source in enumerate(sources):
        pixels, ratio = swept_pixels(scaled_projection(projections[:, s], factor), planes)
        sampled, inside = sample_planes(source, pixels, ratio)
        groups = sampled.view(batch, GROUPS, channels // GROUPS, *inside.shape[1:])
        similarity = (groups * reference).sum(2) * inside[:, None]
        total = total + similarity
        best = torch.maximum(best, torch.where(inside[:, None] > 0, similarity, UNSEEN))
        seen = seen + inside
        apart = F.pad((pixels[:, 1:] - pixels[:, :-1]).abs().sum(-1), (0, 0, 0, 0, 0, 1)).flatten(2)
        parallax = torch.maximum(parallax, apart * inside)
    mean = total / seen.clamp_min(1.0)[:, None]
    share = seen / max(len(sources), 1)
    facts = torch.stack([share, (seen > 1.5).to(match.dtype), torch.log1p(parallax.clamp_max(50))], 1)
    return torch.cat([mean, best, facts], 1)


def _track_volume(tracks: Tensor, nearest: Tensor, planes: int) -> Tensor:
    """[B, 2, D, h * w]: a bump of one plane's width at the depth of a pixel's track, and whether it has one."""
    index = tracks.flatten(2) / nearest[:, None, None] * (planes - 1)  # [B, 1, hw]
    known = (tracks.flatten(2) >= 0).to(tracks.dtype)
    ladder = torch.arange(planes, device=tracks.device, dtype=tracks.dtype)[None, :, None]
    bump = torch.exp(-(ladder - index).square()) * known
    return torch.stack([bump, known.expand_as(bump)], 1)


def local_expectation(logits: Tensor, reach: int = 2) -> tuple[Tensor, Tensor]:
    """The mean index [B, 1, h, w] of the planes within `reach` of the likeliest one, and their probability.

    The mean over all planes would lie between a near and a far surface at every edge, where nothing is.
    """
    probability = logits.softmax(1)
    planes = logits.shape[1]
    # the likeliest neighbourhood, not the likeliest plane: a sharp peak beside a broad one is often an accident
    mass = F.avg_pool3d(probability[:, None], (2 * reach + 1, 1, 1), 1, (reach, 0, 0))[:, 0] * (2 * reach + 1)
    centre = mass.argmax(1, keepdim=True)
    window = (centre + torch.arange(-reach, reach + 1, device=logits.device)[None, :, None, None]).clamp(0, planes - 1)
    local = probability.gather(1, window)
    weight = local / local.sum(1, keepdim=True).clamp_min(1e-8)
    return (weight * window).sum(1, keepdim=True), mass.gather(1, centre)


def convex_upsample(values: Tensor, logits: Tensor) -> Tensor:
    """[B, 1, 2h, 2w]: each fine value is a convex combination of its 3 x 3 coarse neighbours.

    Args:
        values: [B, 1, h, w].
        logits: [B, 36, h, w] of the 9 weights of each of the 4 fine pixels.
    """
    batch, _, height, width = values.shape
    weight = logits.view(batch, 9, 4, height, width).softmax(1)
    neighbours = F.unfold(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3).view(batch, 9, 1, height, width)
    return F.pixel_shuffle((weight * neighbours).sum(1), 2)
