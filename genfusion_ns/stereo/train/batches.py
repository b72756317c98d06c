"""Batches of reference photos with sources: a function of (seed, step) alone, so that a resumed run sees the same."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors.numpy import load_file
from torch import Tensor

from genfusion_ns.stereo.sweep import relative_projection

SIZES = ((96, 128), (128, 96), (96, 144), (112, 112), (128, 160), (144, 96), (144, 192), (192, 144), (160, 224))
"""Heights and widths of batches."""
SMALL_SIZES = ((64, 96), (96, 64), (80, 80), (64, 112), (48, 80), (80, 64))
"""The same while a run begins: matching is learnt from many small photos first."""


class StereoBatch(NamedTuple):
    """B photos with S sources each; see `StereoNetwork.forward`."""

    photo: Tensor
    sources: Tensor
    projections: Tensor
    nearest: Tensor
    tracks: Tensor
    inverse_depth: Tensor
    """[B, 1, H, W] the truth; 0 = infinitely far."""
    known: Tensor
    """[B, 1, H, W] 1.0 where there is a truth."""
    seen: Tensor
    """[B, 1, H, W] how many sources see the true place (occlusion aside)."""

    def to(self, device: torch.device | str) -> StereoBatch:
        """The same on another device."""
        return StereoBatch(*(part.to(device, non_blocking=True) for part in self))


@dataclass(frozen=True)
class View:
    """A photo cut to the batch's size, before it is photographed badly."""

    rgb: NDArray[np.float32]
    depth: NDArray[np.float32]
    K: NDArray[np.float64]
    w2c: NDArray[np.float64]


@lru_cache(maxsize=2048)
def _scene(path: Path) -> dict[str, NDArray]:
    return load_file(path)


def make_batch(
    paths: Sequence[Path], seed: int, step: int, size: int = 4, sizes: Sequence[tuple[int, int]] = SIZES
) -> StereoBatch:
    """The batch of a step; all its photos have one size and one number of sources."""
    rng = np.random.default_rng([seed, step])
    height, width = sizes[int(rng.integers(len(sizes)))]
    count = int(rng.choice([1, 2, 3, 4], p=[0.15, 0.4, 0.3, 0.15]))
    samples = []
    while len(samples) < size:
        sample = _sample(_scene(paths[int(rng.integers(len(paths)))]), rng, height, width, count)
        if sample is not None:
            samples.append(sample)
    return StereoBatch(*(torch.stack(parts) for parts in zip(*samples, strict=True)))


def _sample(scene: dict[str, NDArray], rng: np.random.Generator, height: int, width: int, count: int):
    """One photo with its sources as tensors without a batch axis; None where too little of its depth is known."""
    frames = len(scene["rgb"])
    r = int(rng.integers(frames))
    chosen = _sources(scene, r, count, rng)
    zoom = float(rng.uniform(1.0, 1.6))
    views = [_cut(scene, i, height, width, zoom, rng) for i in (r, *chosen)]
    depth = views[0].depth
    finite = (depth > 0) & np.isfinite(depth)
    if finite.sum() < 30:
        return None
    dense = bool((depth > 0).mean() > 0.5)
    if dense and finite.mean() < 0.2:
        return None
    nearest = 1.0 / float(np.quantile(depth[finite], 0.01) * rng.uniform(0.3, 0.95))
    inverse = np.where(depth > 0, 1.0 / np.maximum(depth, 1e-6), 0.0).astype(np.float32)
    known = (depth > 0).astype(np.float32)
    photos = _photographed([view.rgb for view in views], rng)
    K = torch.from_numpy(np.stack([view.K for view in views]))
    w2c = torch.from_numpy(np.stack([_shaken(view, rng) if rng.random() < 0.5 else view.w2c for view in views]))
    projections = relative_projection(K[:1], w2c[:1], K[1:], w2c[1:])
    true_projections = relative_projection(K[:1], torch.from_numpy(views[0].w2c)[None], K[1:], w2c[1:])
    tensor = torch.from_numpy
    inverse_depth, mask = tensor(inverse)[None], tensor(known)[None]
    return (
        tensor(photos[0]).permute(2, 0, 1) * 2 - 1,
        tensor(np.stack(photos[1:])).permute(0, 3, 1, 2) * 2 - 1,
        projections.float(),
        torch.tensor(nearest, dtype=torch.float32),
        _tracks(inverse_depth, mask, photos[0], nearest, rng),
        inverse_depth,
        mask,
        _seen_by(true_projections.float(), inverse_depth, height, width),
    )


def _sources(scene: dict[str, NDArray], r: int, count: int, rng: np.random.Generator) -> list[int]:
    """Source views: from the most similar few to any, with a spread drawn for the sample."""
    w2c = scene["w2c"]
    centres = -np.einsum("fji,fj->fi", w2c[:, :3, :3], w2c[:, :3, 3])
    unlike = np.linalg.norm(centres - centres[r], axis=1) + 0.5 * (1 - w2c[:, 2, :3] @ w2c[r, 2, :3])
    order = [int(i) for i in unlike.argsort() if i != r]
    if rng.random() < 0.1:
        order = order[len(order) // 2 :]
    reach = count + int((len(order) - count) * rng.random() ** 1.5)
    return [order[i] for i in rng.permutation(max(reach, count))[:count] if i < len(order)] or order[:1] * count


def _cut(scene: dict[str, NDArray], i: int, height: int, width: int, zoom: float, rng: np.random.Generator) -> View:
    """A view shrunk so that a window of height x width covers 1 / zoom of it, cut at random."""
    rgb, depth, K = scene["rgb"][i], scene["depth"][i].astype(np.float32), scene["K"][i].copy()
    h, w = rgb.shape[:2]
    scale = max(height / h, width / w) * zoom
    if scale > 1.3:
        scale = max(height / h, width / w) * min(zoom, 1.05)
    new_h, new_w = max(height, round(h * scale)), max(width, round(w * scale))
    y, x = int(rng.integers(new_h - height + 1)), int(rng.integers(new_w - width + 1))
    picture = Image.fromarray(rgb).resize(
        (new_w, new_h), Image.Resampling.BOX if scale < 0.6 else Image.Resampling.BICUBIC
    )
    if (depth > 0).mean() > 0.5:
        rows = ((np.arange(new_h) + 0.5) * h / new_h).astype(int)
        columns = ((np.arange(new_w) + 0.5) * w / new_w).astype(int)
        small = depth[rows][:, columns]
    else:
        small = np.zeros((new_h, new_w), np.float32)
        v, u = np.nonzero(depth > 0)
        far_first = np.argsort(-depth[v, u])
        v, u = v[far_first], u[far_first]
        small[((v + 0.5) * new_h / h).astype(int), ((u + 0.5) * new_w / w).astype(int)] = depth[v, u]
    K[0] *= new_w / w
    K[1] *= new_h / h
    K[0, 2] -= x
    K[1, 2] -= y
    window = np.asarray(picture, np.float32)[y : y + height, x : x + width] / 255
    return View(window, small[y : y + height, x : x + width], K, scene["w2c"][i])


def _shaken(view: View, rng: np.random.Generator) -> NDArray[np.float64]:
    """The pose turned by up to half a pixel's angle or so, as estimated poses are."""
    from scipy.spatial.transform import Rotation

    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(rng.normal(0, 0.3 / view.K[0, 0], 3)).as_matrix()
    return turn @ view.w2c


def _photographed(pictures: list[NDArray[np.float32]], rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """The pictures as one camera would take them: colours in common, exposure and noise each for itself."""
    common = np.exp(rng.normal(0, 0.2, 3)), np.exp(rng.normal(0, 0.25)), rng.permutation(3)
    own = rng.choice([0.0, 0.03, 0.12])
    contrast = rng.uniform(0.4, 1.0)
    noise, jpeg, blur = rng.choice([0.0, 0.006, 0.02]), rng.random() < 0.3, rng.random() < 0.25
    taken = []
    for picture in pictures:
        gain = common[0] * np.exp(rng.normal(0, own)) * np.exp(rng.normal(0, own / 4, 3))
        gamma = common[1] * np.exp(rng.normal(0, own / 2))
        x = np.clip(picture[..., common[2]] * contrast + (1 - contrast) * 0.3, 0, 1) ** gamma * gain
        x = np.clip(x + rng.normal(0, 1, x.shape) * noise, 0, 1)
        image = Image.fromarray(np.round(255 * x).astype(np.uint8))
        if blur:
            image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.9))))
        if jpeg:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=int(rng.integers(40, 95)))
            image = Image.open(buffer)
        taken.append(np.asarray(image, np.float32) / 255)
    if rng.random() < 0.15 and len(taken) > 1:
        _distract(taken, rng)
    return taken


def _distract(pictures: list[NDArray[np.float32]], rng: np.random.Generator) -> None:
    """Something that moved: a patch of one picture lies elsewhere in another."""
    a, b = (int(i) for i in rng.permutation(len(pictures))[:2])
    height, width = pictures[a].shape[:2]
    h, w = int(height * rng.uniform(0.1, 0.4)), int(width * rng.uniform(0.1, 0.3))
    y, x = int(rng.integers(height - h)), int(rng.integers(width - w))
    y2, x2 = int(rng.integers(height - h)), int(rng.integers(width - w))
    changed = pictures[b].copy()
    changed[y2 : y2 + h, x2 : x2 + w] = pictures[a][y : y + h, x : x + w]
    pictures[b] = changed


def _tracks(inverse: Tensor, known: Tensor, photo: NDArray, nearest: float, rng: np.random.Generator) -> Tensor:
    """[1, H/4, W/4] inverse depth of a few textured places as tracks would give it, some wrong; -1 elsewhere."""
    height, width = inverse.shape[-2:]
    tracks = torch.full((1, height // 4, width // 4), -1.0)
    if rng.random() < 0.35:
        return tracks
    grey = photo.mean(-1)
    texture = np.abs(np.gradient(grey, axis=0)) + np.abs(np.gradient(grey, axis=1)) + 1e-3
    weight = texture * known[0].numpy() * (inverse[0].numpy() > 0)
    if weight.sum() <= 0:
        return tracks
    count = min(int(np.exp(rng.uniform(np.log(3), np.log(200)))), int((weight > 0).sum()))
    places = rng.choice(weight.size, count, replace=False, p=(weight / weight.sum()).ravel())
    v, u = np.unravel_index(places, weight.shape)
    depth = inverse[0, v, u] * torch.from_numpy(np.exp(rng.normal(0, 0.01, count))).float()
    wrong = torch.from_numpy(rng.random(count) < 0.03)
    depth = torch.where(wrong, torch.from_numpy(rng.uniform(0, nearest, count)).float(), depth)
    tracks[0, v // 4, u // 4] = depth.clamp(0, nearest)
    return tracks


def _seen_by(projections: Tensor, inverse: Tensor, height: int, width: int) -> Tensor:
    """[1, H, W] in how many sources the true place lies inside the image."""
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u), inverse[0]], -1)
    h = torch.einsum("sij,hwj->shwi", projections, rays)
    pixels = h[..., :2] / h[..., 2:].clamp_min(1e-4)
    size = torch.tensor([width, height])
    inside = (h[..., 2] > 1e-4) & (pixels >= 0).all(-1) & (pixels <= size).all(-1)
    return inside.float().sum(0, keepdim=True)


def coarser(values: Tensor, known: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Truth at a fraction of the size: the centre of each block where it is known, else the nearest of its surfaces."""
    centre, has_centre = (x[..., factor // 2 :: factor, factor // 2 :: factor] for x in (values, known))
    largest = F.max_pool2d(torch.where(known > 0, values, torch.full_like(values, -1.0)), factor)
    return torch.where(has_centre > 0, centre, largest.clamp_min(0)), (largest >= 0).to(known.dtype)
