"""The weights of `fusion.fused_confidence`: a logistic regression on scenes with known depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.stereo.estimator import SOURCES, StereoEstimator
from genfusion_ns.stereo.fusion import support
from genfusion_ns.stereo.overlap import choose_sources
from genfusion_ns.stereo.posed_photos import PosedPhoto
from genfusion_ns.stereo.train.depth_loss import CLOSE


def scene_photos(path: Path, chosen: Sequence[int]) -> tuple[list[PosedPhoto], list[Tensor]]:
    """Views of a training scene as posed photos without tracks, and their depth [H, W, 1]."""
    scene = load_file(path)
    height, width = scene["rgb"].shape[1:3]
    photos, depths = [], []
    for i in chosen:
        camera = Camera(
            torch.from_numpy(scene["w2c"][i]).float(), torch.from_numpy(scene["K"][i]).float(), width, height
        )
        depth = torch.from_numpy(scene["depth"][i].astype(np.float32))[..., None]
        near = float(depth[(depth > 0) & depth.isfinite()].quantile(0.02))
        none = torch.zeros(0)
        photos.append(
            PosedPhoto(
                camera, torch.from_numpy(scene["rgb"][i]).float() / 255, none.reshape(0, 2), none, (near, 4 * near)
            )
        )
        depths.append(depth)
    return photos, depths


def fit_fusion(estimator: StereoEstimator, paths: Sequence[Path], seed: int = 0) -> tuple[float, ...]:
    """Bias and weights of the log odds, agreement and contradiction, from three photos of each scene."""
    rng = np.random.default_rng(seed)
    inputs, right = [], []
    for path in paths:
        gap = int(rng.integers(1, 5))
        photos, truth = scene_photos(path, [0, gap, 2 * gap])
        sources = choose_sources(photos, SOURCES)
        found = estimator.single_views(photos, sources)
        for i, depth in enumerate(found):
            said = support(i, photos, found, sources[i])
            known = ((truth[i] > 0) & truth[i].isfinite())[..., 0]
            odds = torch.logit(depth.confidence.clamp(1e-4, 1 - 1e-4))
            features = torch.cat(
                [torch.ones_like(odds), odds, said.agree.clamp_max(3), said.contradict.clamp_max(3)], -1
            )
            inputs.append(features[known])
            right.append(((depth.depth / truth[i] - 1).abs() < CLOSE)[known])
    x, y = torch.cat(inputs), torch.cat(right).float()[:, 0]
    weights = torch.tensor([0.0, 1.0, 0.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(x @ weights, y)
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return tuple(round(float(w), 3) for w in weights.detach())
