"""Depth of posed photos by the bundled stereo network, and the choice among estimators."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from genfusion_ns.errors import UserError
from genfusion_ns.stereo.fusion import fused_confidence, support
from genfusion_ns.stereo.network import MULTIPLE, PhotoFeatures, StereoNetwork
from genfusion_ns.stereo.overlap import choose_sources, working_range
from genfusion_ns.stereo.posed_photos import DepthEstimator, PhotoDepth, PosedPhoto, Progress
from genfusion_ns.stereo.sweep import relative_projection

BUNDLED = Path(__file__).parent / "weights" / "stereo.safetensors"
SOURCES = 4
"""Most photos that one photo is compared with."""
NEAREST_MARGIN = 0.5
"""The nearest plane lies at this share of the nearest track's depth: what has no track may be nearer."""


class StereoEstimator:
    """The bundled network, with what photos say of each other's depth."""

    name = "stereo"

    def __init__(self, weights: Path = BUNDLED, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = load_network(weights).to(self.device).eval()
        self.fingerprint = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]

    @torch.no_grad()
    def estimate(self, photos: Sequence[PosedPhoto], progress: Progress | None = None) -> list[PhotoDepth]:
        """See `DepthEstimator.estimate`."""
        sources = choose_sources(photos, SOURCES)
        found = self.single_views(photos, sources, progress)
        return [
            replace(depth, confidence=fused_confidence(depth.confidence, support(i, photos, found, sources[i])))
            for i, depth in enumerate(found)
        ]

    @torch.no_grad()
    def single_views(
        self, photos: Sequence[PosedPhoto], sources: Sequence[Sequence[int]], progress: Progress | None = None
    ) -> list[PhotoDepth]:
        """The network's depth of each photo from its sources, before photos judge each other."""
        features = [self.network.features(padded(photo.rgb).to(self.device)) for photo in photos]
        found = []
        for i, photo in enumerate(photos):
            chosen = sources[i]
            found.append(self._depth(photo, features[i], [photos[j] for j in chosen], [features[j] for j in chosen]))
            if progress is not None:
                progress(i + 1)
        return found

    def _depth(
        self,
        photo: PosedPhoto,
        features: PhotoFeatures,
        sources: Sequence[PosedPhoto],
        source_features: Sequence[PhotoFeatures],
    ) -> PhotoDepth:
        """Two passes: planes from a cautious guess of the nearest depth, then planes where the first pass found it."""
        projections = torch.stack(
            [relative_projection(photo.camera.K, photo.camera.w2c, s.camera.K, s.camera.w2c) for s in sources]
            or [torch.zeros(3, 4)]
        )[None].to(self.device)
        near, _ = working_range(photo)
        nearest = torch.tensor([1.0 / (NEAREST_MARGIN * near)], device=self.device)
        height, width = photo.rgb.shape[:2]
        known = track_map(photo, features.match.shape[-2:]).to(self.device)
        for _ in range(2):
            tracks = torch.where(known > nearest, -1.0, known)
            output = self.network.compare_photos(features, source_features, projections, nearest, tracks)
            seen = output.coarse[..., : -(-height // 4), : -(-width // 4)].flatten()
            nearest = (seen.quantile(0.995) / 0.8).clamp(0.2 * nearest[0], 1.2 * nearest[0])[None]
        inverse = output.inverse_depth[0, 0, :height, :width].clamp_min(1e-3 * float(nearest))
        upsampled = F.interpolate(
            torch.cat([output.confidence.sigmoid(), output.log_scale.clamp(-6, 1.5).exp()], 1),
            scale_factor=2,
            mode="bilinear",
            align_corners=False,
        )[0, :, :height, :width]
        return PhotoDepth((1 / inverse)[..., None].cpu(), upsampled[0, ..., None].cpu(), upsampled[1, ..., None].cpu())


def load_network(path: Path) -> StereoNetwork:
    """The stereo network with weights from a safetensors file. Raises UserError: the file is missing, broken, or of
    another network."""
    network = StereoNetwork()
    try:
        weights = {name: value.float() for name, value in load_file(path).items()}
        network.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the stereo network's weights {path} cannot be used ({reason}). Install genfusion again, name other "
            "weights, or start from tracks: --pipeline.datamanager.initial-points tracks"
        ) from error
    return network


def padded(rgb: Tensor) -> Tensor:
    """[1, 3, H', W'] in [-1, 1] of a photo [H, W, 3] in [0, 1], its right and lower border repeated."""
    height, width = rgb.shape[:2]
    return F.pad(rgb.permute(2, 0, 1)[None] * 2 - 1, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")


def track_map(photo: PosedPhoto, shape: Sequence[int]) -> Tensor:
    """[1, 1, h, w] inverse depth of the photo's tracks at a quarter of its size, -1 where there is none."""
    hint = torch.full((1, 1, *shape), -1.0)
    x, y = (photo.track_pixels / 4).long().unbind(-1)
    keep = (photo.track_depths > 0) & (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
    hint[0, 0, y[keep], x[keep]] = 1.0 / photo.track_depths[keep]
    return hint


def create_estimator(spec: str, device: torch.device | str = "cpu") -> DepthEstimator:
    """The estimator that `spec` names: "stereo" (bundled), or "transformers:SOURCE" and "depth-anything-3:SOURCE" with
    a hub id or a folder; "stereo:FILE" takes other weights of the bundled network. Raises UserError: there is no such
    estimator, or its weights or packages cannot be had."""
    kind, _, source = spec.partition(":")
    if kind not in ("stereo", "transformers", "depth-anything-3") or (kind != "stereo" and not source):
        raise UserError(
            f"there is no depth estimator {spec!r}; expected stereo, transformers:SOURCE or depth-anything-3:SOURCE, "
            "where SOURCE is a hub id or a folder."
        )
    stereo = StereoEstimator(Path(source) if kind == "stereo" and source else BUNDLED, device=device)
    if kind == "stereo":
        return stereo
    from genfusion_ns.stereo import pretrained  # transformers takes seconds to import

    network = {"transformers": pretrained.transformers_network, "depth-anything-3": pretrained.depth_anything_3}[kind]
    return pretrained.FittedEstimator(spec, network(source, device), stereo)
