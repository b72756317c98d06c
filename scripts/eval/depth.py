"""How right the depth of captured photos is: a guess from tracks, and the bundled stereo network.

Procedural scenes (seeds that no training saw) and the demo room have exact depth; real captures are measured at the
points that their COLMAP model triangulated from all photos (as a measure only: estimators see the training photos).

    python scripts/eval/depth.py --scenes ../shared/data/llff_fern ../shared/data/fox --splits 3 6 9
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.data.colmap import find_model, read_model, similarity_between
from genfusion_ns.data.points import measured_points
from genfusion_ns.data.sequences import within_unit
from genfusion_ns.data.views import TrainView, find_by_name, to_pixels, view_arrays
from genfusion_ns.stereo.estimator import BUNDLED, StereoEstimator
from genfusion_ns.stereo.posed_photos import PhotoDepth, PosedPhoto, posed_photos
from genfusion_ns.synthetic.demo import demo_path, demo_scene
from genfusion_ns.synthetic.families import make_family_scene, scene_names
from genfusion_ns.synthetic.render import Studio
from genfusion_ns.synthetic.write import sparse_splits

VALIDATION_SEED = 90_000
"""Procedural scenes from this seed on are never trained on."""
SCORES = ("median", "within 5 %", "within 10 %", "sure", "sure, within 5 %")


@dataclass
class Config:
    """Measure depth estimators."""

    scenes: tuple[Path, ...] = ()
    """Captures in Nerfstudio's format with train_test_split_{n}.json and a COLMAP model."""
    splits: tuple[int, ...] = (3, 6, 9)
    """Numbers of training photos."""
    procedural: int = 8
    """How many procedural scenes; 3 photos each."""
    demo: bool = True
    """Measure the demo room too, with 3 photos."""
    side: int = 320
    """Longest side of the photos in pixels."""
    weights: Path = BUNDLED
    """Weights of the stereo network."""
    output: Path | None = None
    """Where the rows go as JSON."""


Case = tuple[str, list[PosedPhoto], list[tuple[Tensor, Tensor, Tensor]]]
"""Name, training photos, and where their depth is known: per photo columns, rows [n] and depths [n]."""


def main(config: Config) -> None:
    torch.manual_seed(0)
    estimators: dict[str, Callable[[list[PosedPhoto]], list[PhotoDepth]]] = {
        "guess": guess,
        "stereo": StereoEstimator(config.weights).estimate,
    }
    rows, console = [], Console(width=120)
    table = Table("case", "estimator", *SCORES, title="relative error of depth; sure = confidence above 0.8")
    for name, photos, truth in cases(config):
        for estimator, estimate in estimators.items():
            row = {"case": name, "estimator": estimator, **scores(estimate(photos), truth)}
            rows.append(row)
            table.add_row(*(value if isinstance(value, str) else f"{value:.3f}" for value in row.values()))
    console.print(table)
    if config.output is not None:
        config.output.write_text(json.dumps(rows, indent=1))


def cases(config: Config) -> Iterator[Case]:
    """All that is measured, one at a time."""
    for index in range(config.procedural):
        family = scene_names()[index % len(scene_names())]
        staged = make_family_scene(family, VALIDATION_SEED + index)
        width, height = [(320, 192), (192, 320), (256, 256)][index % 3]
        cameras = staged.cameras(24, width, height)
        # from neighbours to the whole path
        stride = (2, 4, 8, 11)[index % 4]
        yield rendered_case(f"{family} {3}/{stride}", Studio(staged.scene), [cameras[i * stride] for i in range(3)])
    if config.demo:
        cameras = demo_path(40, config.side, round(config.side * 0.6))
        chosen = [cameras[i] for i in sparse_splits(40)[3]["train_ids"]]
        yield rendered_case("demo 3", Studio(demo_scene()), chosen)
    for scene in config.scenes:
        for count in config.splits:
            yield capture_case(scene, count, config.side)


def rendered_case(name: str, studio: Studio, cameras: Sequence[Camera]) -> Case:
    """Photos of a procedural scene with the depth of every pixel; tracks come from matched features."""
    shots = [studio.photo(camera, 3) for camera in cameras]
    unit, scale = within_unit(cameras)
    views = [TrainView(c, s.rgb, f"{i}.png", i) for i, (c, s) in enumerate(zip(unit, shots, strict=True))]
    truth = []
    for shot in shots:
        depth = torch.from_numpy(shot.depth * np.float32(scale))
        rows, columns = torch.nonzero(depth > 0, as_tuple=True)
        truth.append((columns, rows, depth[rows, columns]))
    return name, posed_photos(views, measured_points(views, None)[0]), truth


def capture_case(scene: Path, count: int, side: int) -> Case:
    """Training photos of a capture as the plugin sees them, and its COLMAP points at their observations."""
    from genfusion_ns.plugin.datamanager import GenFusionDataManagerConfig
    from genfusion_ns.plugin.dataparser import GenFusionDataParserConfig

    config = GenFusionDataManagerConfig(data=scene, initial_points="random", max_seed_points=10, max_image_side=side)
    config.dataparser = GenFusionDataParserConfig(sparse_views=count)
    views = config.setup(device="cpu", test_mode="val").train_views()
    folder = find_model(scene)
    if folder is None:
        raise SystemExit(f"{scene} has no COLMAP model to measure against.")
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
    return f"{scene.name} {count}", photos, truth


def scores(depths: Sequence[PhotoDepth], truth: Sequence[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
    """`SCORES` over all places of all photos where the truth is known."""
    pairs = list(zip(depths, truth, strict=True))
    error = torch.cat([(depth.depth[rows, columns, 0] / z - 1).abs() for depth, (columns, rows, z) in pairs])
    sure = torch.cat([depth.confidence[rows, columns, 0] for depth, (columns, rows, _) in pairs]) > 0.8
    right = (error < 0.05).float()
    shares = right.mean(), (error < 0.10).float().mean(), sure.float().mean(), right[sure].mean()
    return dict(zip(SCORES, map(float, (error.median(), *shares)), strict=True))


def guess(photos: Sequence[PosedPhoto]) -> list[PhotoDepth]:
    """What the start from tracks assumes: the depth of the nearest track, or the middle of the cameras' range."""
    found = []
    for photo in photos:
        near, far = photo.depth_bounds
        depth = torch.full((*photo.rgb.shape[:2], 1), (near * far) ** 0.5)
        if len(photo.track_depths):
            v, u = torch.meshgrid(*(torch.arange(n) + 0.5 for n in photo.rgb.shape[:2]), indexing="ij")
            distance = torch.cdist(torch.stack([u, v], -1).reshape(-1, 2), photo.track_pixels)
            depth = photo.track_depths[distance.argmin(1)].reshape(depth.shape)
        found.append(PhotoDepth(depth, torch.full_like(depth, 0.3), torch.full_like(depth, 0.3)))
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
