"""First splats on the surfaces that the photos' depths show.

Each splat is a pixel of a photo: its place is the pixel's depth, its normal the depth's gradient, its colour the
photo's; more of them lie where there is detail. Where the depth is doubtful the splat lies, by chance, where the
estimator puts the surface (give or take the error that it expects), or at the depth of a surface nearby in the photo
that is sure: the less sure, the more often the latter. Tracks are splats of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.cameras import unproject
from genfusion_ns.data.frustum import complete_with_frustum_samples
from genfusion_ns.data.points import FEW_TRACKS, track_colours
from genfusion_ns.data.triangulate import Triangulated
from genfusion_ns.data.views import FloatArray, TrainView
from genfusion_ns.geometry import depth_to_normal
from genfusion_ns.seeding import generator, thinned_rows
from genfusion_ns.stereo.posed_photos import PhotoDepth, PosedPhoto

SPREAD = 0.5
"""Share of the room that tracks leave that goes to samples in the frusta."""
SURE = 0.5
"""Confidence from which a pixel's depth is taken as it is."""
LARGEST_JITTER = 0.3
"""Standard deviation of a doubtful sample's log depth, at most."""
FARTHEST = 3.0
"""No doubtful splat starts farther away than this many times the farthest depth that tracks or cameras suggest, and no
sure one ten times as far: the sky is nowhere."""
MOST_ANCHORS = 2000
"""So many sure pixels of a photo are enough to choose from."""
ANCHORS = 4
"""A doubtful pixel may lie at the depth of one of this many nearest sure places."""
SMOOTHING = 9
"""Side of the window over which depth is averaged for normals."""
DETAIL = 4.0
"""How many times likelier a pixel at a strong edge is sampled than one in a plain area."""


@dataclass(frozen=True)
class Surfels:
    """Splats to start from."""

    xyz: Tensor
    """[N, 3] world."""
    rgb: Tensor
    """[N, 3] in [0, 1]."""
    normals: Tensor
    """[N, 3] unit vectors towards the photo; 0 = unknown."""

    def __getitem__(self, rows: Tensor) -> Surfels:
        return Surfels(self.xyz[rows], self.rgb[rows], self.normals[rows])


def first_splats(
    views: Sequence[TrainView],
    photos: Sequence[PosedPhoto],
    depths: Sequence[PhotoDepth],
    tracks: Triangulated,
    budget: int,
    seed: int,
) -> Surfels:
    """The first splats: the tracks (once each; of more than half of `budget` so many by chance), then the surfaces that
    the photos' depth shows and, where tracks anchor them, samples in the views' frusta: what the photos hide needs
    splats too."""
    tracked = _at_tracks(views, tracks, budget // 2, seed)
    room = budget - len(tracked.xyz)
    spread = int(SPREAD * room) if len(tracks.xyz) >= FEW_TRACKS else 0
    surfels = surfels_of(photos, depths, room - spread, seed)
    samples = complete_with_frustum_samples(views, tracks.xyz, tracks.tracks, spread, seed)
    return _joined([tracked, surfels, _unoriented(samples.xyz, samples.rgb)])


def surfels_of(photos: Sequence[PosedPhoto], depths: Sequence[PhotoDepth], budget: int, seed: int) -> Surfels:
    """About `budget` splats, at most, for the surfaces that the photos show, more where there is detail; `depths` are
    of the photos' sizes."""
    weights = [sampling_weight(photo) for photo in photos]
    rate = budget / max(sum(float(weight.sum()) for weight in weights), 1e-9)
    parts = []
    for i, (photo, depth, weight) in enumerate(zip(photos, depths, weights, strict=True)):
        chosen = dithered((weight * rate).clamp_max(1.0), generator(seed, "surfels", i))
        parts.append(_splats(photo, depth, chosen, generator(seed, "doubt", i)))
    found = _joined(parts)
    return found[thinned_rows(len(found.xyz), budget, generator(seed, "surfels kept"))]


def sampling_weight(photo: PosedPhoto) -> Tensor:
    """[H, W] how much the pixels of a photo are worth a splat: from 1 in plain areas to DETAIL at strong edges."""
    grey = F.pad(photo.rgb.mean(-1)[None, None], (1, 1, 1, 1), mode="replicate")
    across, down = grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2], grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]
    strength = F.avg_pool2d(across.abs() + down.abs(), 3, 1, 1, count_include_pad=False)[0, 0]
    return 1 + (DETAIL - 1) * (strength / strength.quantile(0.95).clamp_min(1e-6)).clamp_max(1.0)


def dithered(chance: Tensor, random: torch.Generator) -> Tensor:
    """[n] indices of pixels chosen with probability `chance` [H, W], evenly spread: systematic sampling along a curve
    through blocks of 8 x 8 pixels."""
    height, width = chance.shape
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    block = (v // 8) * (-(-width // 8)) + u // 8
    inner = torch.rand(height, width, generator=random)
    order = (block.double() + inner.double()).flatten().argsort()
    total = chance.flatten()[order].double().cumsum(0) + torch.rand((), generator=random).double()
    count = total.floor()
    picked = count.diff(prepend=torch.zeros(1, dtype=count.dtype)) >= 1
    return order[picked].sort().values


def _splats(photo: PosedPhoto, depth: PhotoDepth, chosen: Tensor, random: torch.Generator) -> Surfels:
    """A splat for each of the chosen pixels [n]."""
    camera = photo.camera
    z, confidence, spread = (x.flatten()[chosen] for x in depth.maps())
    sure = confidence >= SURE
    beyond = FARTHEST * max([photo.depth_bounds[1], *photo.track_depths.tolist()])
    z = torch.where(sure, z.clamp_max(10 * beyond), z.clamp_max(beyond))
    jitter = spread.clamp(0.02, LARGEST_JITTER) * torch.randn(len(z), generator=random)
    believed = torch.rand(len(z), generator=random) * SURE < confidence
    nearby = nearby_depth(photo, depth, chosen, z, random)
    place = torch.where(sure, z, torch.where(believed, z * torch.exp(jitter), nearby))
    rays = unproject(torch.ones_like(depth.depth), camera).flatten(0, 1)[chosen] - camera.position
    normals = depth_to_normal(smoothed(depth), camera).flatten(0, 1)[chosen]
    xyz = camera.position + rays * place[:, None]
    return Surfels(xyz, photo.rgb.flatten(0, 1)[chosen], torch.where(sure[:, None], normals, 0.0))


def smoothed(depth: PhotoDepth) -> Tensor:
    """[H, W, 1] depth averaged over SMOOTHING pixels by its confidence: one per cent of noise between neighbouring
    pixels would turn a normal by 40 degrees."""
    weight = depth.confidence.permute(2, 0, 1)[None] + 1e-3
    disparity = weight / depth.depth.permute(2, 0, 1)[None]
    mean = [F.avg_pool2d(x, SMOOTHING, 1, SMOOTHING // 2, count_include_pad=False) for x in (disparity, weight)]
    return (mean[1] / mean[0])[0].permute(1, 2, 0)


def _at_tracks(views: Sequence[TrainView], tracks: Triangulated, most: int, seed: int) -> Surfels:
    """At most so many splats at tracks: the surest places there are."""
    found = _unoriented(tracks.xyz, track_colours(tracks, views))
    return found[thinned_rows(len(found.xyz), most, generator(seed, "anchors"))]


def _unoriented(xyz: FloatArray, rgb: FloatArray) -> Surfels:
    """Splats of unknown normals at places [N, 3], of colours [N, 3] in [0, 255]."""
    places = torch.from_numpy(xyz).float()
    return Surfels(places, (torch.from_numpy(rgb).float() / 255).clamp(0, 1), torch.zeros_like(places))


def _joined(parts: Sequence[Surfels]) -> Surfels:
    return Surfels(*(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))


def nearby_depth(
    photo: PosedPhoto, depth: PhotoDepth, pixels: Tensor, fallback: Tensor, random: torch.Generator
) -> Tensor:
    """[n] the depth of a sure place near each of the pixels [n]: one of the nearest few by chance, weight 1 / distance
    squared, jittered more the farther it is. Choosing keeps samples on surfaces; a mean of a near and a far one is a
    depth at which nothing is. `fallback` [n], jittered, where the photo has no sure place."""
    height, width = depth.depth.shape[:2]
    noise = torch.randn(len(pixels), generator=random)
    sure = torch.where((depth.confidence >= SURE).flatten())[0]
    sure = sure[:: max(1, len(sure) // MOST_ANCHORS)]
    places = torch.cat([torch.stack([sure % width, sure // width], -1) + 0.5, photo.track_pixels])
    known = torch.cat([depth.depth.flatten()[sure], photo.track_depths])
    if not len(known):
        return fallback * torch.exp(LARGEST_JITTER * noise)
    here = torch.stack([pixels % width, pixels // width], -1) + 0.5
    distance, index = torch.cdist(here, places).topk(min(ANCHORS, len(known)), largest=False)
    draw = torch.multinomial(1 / (distance + 1).square(), 1, generator=random) if len(here) else index[:, :1]
    jitter = (distance.gather(1, draw)[:, 0] / max(height, width)).clamp(0.02, LARGEST_JITTER)
    return known[index.gather(1, draw)[:, 0]] * torch.exp(jitter * noise)
