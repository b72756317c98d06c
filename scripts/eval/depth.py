"""How right the stereo network's depth of captured photos is, at the points of their COLMAP models.

    python scripts/eval/depth.py --scenes ../shared/data/llff_fern ../shared/data/fox --splits 3 6 9

The models were triangulated from all photos: a measure only, the network sees the training photos alone.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from genfusion_ns.data.colmap import find_model, read_model, similarity_between
from genfusion_ns.data.points import measured_points
from genfusion_ns.data.views import find_by_name, to_pixels, view_arrays
from genfusion_ns.errors import UserError, exits_cleanly
from genfusion_ns.stereo.estimator import BUNDLED, StereoEstimator
from genfusion_ns.stereo.posed_photos import PhotoDepth, PosedPhoto, posed_photos

SCORES = ("median", "within 5 %", "within 10 %", "sure", "sure, within 5 %")


@dataclass
class Config:
    """Measure depth estimators."""

    scenes: tuple[Path, ...]
    """Captures in Nerfstudio's format with train_test_split_{n}.json and a COLMAP model."""
    splits: tuple[int, ...] = (3, 6, 9)
    """Numbers of training photos."""
    side: int = 320
    """Longest side of the photos in pixels."""
    weights: Path = BUNDLED
    """Weights of the stereo network."""
    output: Path | None = None
    """Where the rows go as JSON."""


Truth = tuple[Tensor, Tensor, Tensor]
"""Columns, rows [n] and depths [n] of the places of a photo where its depth is known."""


@exits_cleanly
def main(config: Config) -> None:
    """Measure, print a table, and write the rows."""
    torch.manual_seed(0)
    estimator, rows = StereoEstimator(config.weights), []
    table = Table("photos", *SCORES, title="relative error of depth; sure = confidence above 0.8")
    for scene, count in itertools.product(config.scenes, config.splits):
        photos, truth = capture_case(scene, count, config.side)
        found = scores(estimator.estimate(photos), truth)
        rows.append({"case": f"{scene.name} {count}", **found})
        table.add_row(f"{scene.name} {count}", *(f"{value:.3f}" for value in found.values()))
    Console(width=120).print(table)
    if config.output is not None:
        config.output.write_text(json.dumps(rows, indent=1))


def capture_case(scene: Path, count: int, side: int) -> tuple[list[PosedPhoto], list[Truth]]:
    """Training photos of a capture as the plugin sees them, and its COLMAP points at their observations."""
    from genfusion_ns.plugin.datamanager import GenFusionDataManagerConfig
    from genfusion_ns.plugin.dataparser import GenFusionDataParserConfig

    config = GenFusionDataManagerConfig(data=scene, initial_points="random", max_seed_points=10, max_image_side=side)
    config.dataparser = GenFusionDataParserConfig(sparse_views=count)
    views = config.setup(device="cpu", test_mode="val").train_views()
    folder = find_model(scene)
    if folder is None:
        raise UserError(f"{scene} holds no COLMAP model to measure against; name captures that have one.")
    model = read_model(folder)
    photos = posed_photos(views, measured_points(views, model)[0])
    cameras = view_arrays(views)
    images = [i for i in find_by_name(model.names, [view.name for view in views]) if i is not None]
    scale, R, t, _ = similarity_between(model.c2w[images], np.linalg.inv(cameras.w2c))
    xyz = scale * model.xyz @ R.T + t
    several = np.bincount(model.tracks.point, minlength=len(xyz)) >= 3
    truth = []
    for v, image in enumerate(images):
        mine = model.tracks.where((model.tracks.image == image) & several[model.tracks.point])
        depth = xyz[mine.point] @ cameras.w2c[v, 2, :3] + cameras.w2c[v, 2, 3]
        place = np.floor(to_pixels(mine.ray, cameras.K[v])).astype(int)
        keep = (depth > 0) & (place >= 0).all(1) & (place < cameras.size[v]).all(1)
        truth.append((*torch.from_numpy(place[keep].T.copy()), torch.from_numpy(depth[keep]).float()))
    return photos, truth


def scores(depths: Sequence[PhotoDepth], truth: Sequence[Truth]) -> dict[str, float]:
    """`SCORES` over all places of all photos where the truth is known."""
    pairs = list(zip(depths, truth, strict=True))
    error = torch.cat([(depth.depth[rows, columns, 0] / z - 1).abs() for depth, (columns, rows, z) in pairs])
    sure = torch.cat([depth.confidence[rows, columns, 0] for depth, (columns, rows, _) in pairs]) > 0.8
    right = (error < 0.05).float()
    shares = right.mean(), (error < 0.10).float().mean(), sure.float().mean(), right[sure].mean()
    return dict(zip(SCORES, map(float, (error.median(), *shares)), strict=True))


if __name__ == "__main__":
    main(tyro.cli(Config))
