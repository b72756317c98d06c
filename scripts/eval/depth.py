"""How right the depth of captured photos is: today's guess, a classical plane sweep, the bundled stereo network.

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
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from genfusion_ns.cameras import Camera, project, unproject
from genfusion_ns.data.colmap import find_model, read_model, similarity_between
from genfusion_ns.data.points import measured_points
from genfusion_ns.data.sequences import within_unit
from genfusion_ns.data.views import TrainView, find_by_name, to_pixels, view_arrays
from genfusion_ns.stereo.estimator import BUNDLED, StereoEstimator
from genfusion_ns.stereo.fusion import support
from genfusion_ns.stereo.overlap import choose_sources, working_range
from genfusion_ns.stereo.posed_photos import PhotoDepth, PosedPhoto, posed_photos
from genfusion_ns.stereo.sweep import relative_projection, sample_planes, swept_pixels
from genfusion_ns.synthetic.demo import demo_path, demo_scene
from genfusion_ns.synthetic.families import make_family_scene, scene_names
from genfusion_ns.synthetic.render import Studio
from genfusion_ns.synthetic.write import sparse_splits

VALIDATION_SEED = 90_000
"""Procedural scenes from this seed on are never trained on."""


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


@dataclass(frozen=True)
class Case:
    """Training photos, and where their depth is known."""

    name: str
    photos: list[PosedPhoto]
    truth: list[tuple[Tensor, Tensor, Tensor]]
    """Per photo: columns, rows [n] and depths [n] where the truth is known."""
    seen: list[Tensor]
    """Per photo [n]: whether another photo sees the place."""


def main(config: Config) -> None:
    torch.manual_seed(0)
    estimators: dict[str, Callable[[list[PosedPhoto]], list[PhotoDepth]]] = {
        "guess": guess,
        "sweep": sweep,
        "stereo": StereoEstimator(config.weights).estimate,
    }
    rows, console = [], Console(width=150)
    for case in cases(config):
        for name, estimate in estimators.items():
            depths = estimate(case.photos)
            rows.append({"case": case.name, "estimator": name, **scores(case, depths)})
            console.print(f"{case.name}, {name}: median error {rows[-1]['median']:.3f}")  # a sweep takes a minute
    console.print(table(rows))
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
    photos = posed_photos(views, measured_points(views, None)[0])
    truth, exact = [], []
    for shot in shots:
        depth = torch.from_numpy(shot.depth * np.float32(scale))
        rows, columns = torch.nonzero(depth > 0, as_tuple=True)
        truth.append((columns, rows, depth[rows, columns]))
        exact.append(depth[..., None])
    return Case(name, photos, truth, [seen_by_another(i, photos, exact, truth[i]) for i in range(len(photos))])


def seen_by_another(
    i: int, photos: Sequence[PosedPhoto], exact: Sequence[Tensor], places: tuple[Tensor, ...]
) -> Tensor:
    """[n] whether another photo sees the same surface, by the exact depths."""
    columns, rows, depth = places
    points = unproject(exact[i], photos[i].camera)[rows, columns]
    seen = torch.zeros(len(depth), dtype=torch.bool)
    for j, photo in enumerate(photos):
        if j == i:
            continue
        pixels, z = project(points, photo.camera)
        x, y = pixels.floor().long().unbind(-1)
        inside = (z > 0) & (x >= 0) & (y >= 0) & (x < photo.camera.width) & (y < photo.camera.height)
        shown = exact[j][y.clamp(0, photo.camera.height - 1), x.clamp(0, photo.camera.width - 1), 0]
        seen |= inside & ((z / shown.clamp_min(1e-9) - 1).abs() < 0.02)
    return seen


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
    truth, seen = [], []
    for v, image in enumerate(images):
        mine = model.tracks.where((model.tracks.image == image) & several[model.tracks.point])
        depth = xyz[mine.point] @ cameras.w2c[v, 2, :3] + cameras.w2c[v, 2, 3]
        place = np.floor(to_pixels(mine.ray, cameras.K[v])).astype(int)
        keep = (depth > 0) & (place >= 0).all(1) & (place < cameras.size[v]).all(1)
        others = model.tracks.point[np.isin(model.tracks.image, [i for i in images if i != image])]
        truth.append((*torch.from_numpy(place[keep].T.copy()), torch.from_numpy(depth[keep]).float()))
        seen.append(torch.from_numpy(np.isin(mine.point, others)[keep]))
    return Case(f"{scene.name} {count}", photos, truth, seen)


def scores(case: Case, depths: Sequence[PhotoDepth]) -> dict[str, float]:
    """Medians and shares over all places of all photos where the truth is known."""
    error, confidence, seen = [], [], []
    for depth, (columns, rows, truth), matched in zip(depths, case.truth, case.seen, strict=True):
        error.append((depth.depth[rows, columns, 0] / truth - 1).abs())
        confidence.append(depth.confidence[rows, columns, 0])
        seen.append(matched)
    e, c, s = torch.cat(error), torch.cat(confidence), torch.cat(seen)
    sure = c > 0.8
    bins = [(c >= low) & (c < low + 0.1) for low in np.arange(0, 1, 0.1)]
    calibration = sum(
        float(b.sum()) * abs(float(c[b].mean()) - float((e[b] < 0.05).float().mean())) for b in bins if b.any()
    )
    return {
        "median": float(e.median()),
        "median seen": float(e[s].median()) if s.any() else float("nan"),
        "median unseen": float(e[~s].median()) if (~s).any() else float("nan"),
        "within 5 %": float((e < 0.05).float().mean()),
        "within 10 %": float((e < 0.10).float().mean()),
        "sure": float(sure.float().mean()),
        "sure, within 5 %": float((e[sure] < 0.05).float().mean()) if sure.any() else float("nan"),
        "calibration": calibration / max(len(e), 1),
    }


def table(rows: Sequence[dict]) -> Table:
    made = Table(title="relative error of depth; sure = confidence above 0.8; calibration = mean |confidence - share|")
    for name in rows[0]:
        made.add_column(name, justify="left" if name in ("case", "estimator") else "right")
    for row in rows:
        made.add_row(*(value if isinstance(value, str) else f"{value:.3f}" for value in row.values()))
    return made


# -- controls ---------------------------------------------------------------------------------------------------------


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


def sweep(photos: Sequence[PosedPhoto], planes: int = 96) -> list[PhotoDepth]:
    """Zero-mean normalised cross-correlation over two windows, the best two sources, box-filtered, winner takes all;
    sure where another photo's depth agrees within 5 %."""
    sources = choose_sources(photos, 4)
    depths = [_swept(photo, [photos[j] for j in sources[i]], planes) for i, photo in enumerate(photos)]
    result = []
    for i, depth in enumerate(depths):
        agree = support(i, photos, depths, sources[i]).agree > 0
        result.append(PhotoDepth(depth.depth, torch.where(agree, 0.9, 0.1), torch.where(agree, 0.03, 0.3)))
    return result


def _swept(photo: PosedPhoto, sources: Sequence[PosedPhoto], planes: int) -> PhotoDepth:
    near, far = working_range(photo)
    inverse = torch.linspace(0.5 / far, 2.0 / near, planes)
    reference = photo.rgb.permute(2, 0, 1)[None]
    height, width = photo.rgb.shape[:2]
    volume = inverse[None, :, None, None].expand(1, -1, height, width)
    costs = []
    for source in sources:
        projection = relative_projection(photo.camera.K, photo.camera.w2c, source.camera.K, source.camera.w2c)[None]
        pixels, ratio = swept_pixels(projection, volume)
        warped, inside = sample_planes(source.rgb.permute(2, 0, 1)[None], pixels, ratio)
        warped = warped[0].unflatten(-1, (height, width)).transpose(0, 1)  # [D, 3, H, W]
        cost = sum(1 - _correlation(reference, warped, window) for window in (5, 11))
        costs.append(torch.where(inside[0].unflatten(-1, (height, width)) > 0, cost, 2.0))
    cost = torch.stack(costs).sort(0).values[:2].mean(0)
    cost = F.avg_pool2d(cost[None], 5, 1, 2, count_include_pad=False)[0]
    best = cost.argmin(0)
    inner = best.clamp(1, planes - 2)
    before, at, after = (cost.gather(0, (inner + k)[None])[0] for k in (-1, 0, 1))
    shift = ((before - after) / (2 * (before - 2 * at + after).clamp_min(1e-6))).clamp(-0.5, 0.5)
    depth = 1 / (inverse[0] + (inner + shift) * (inverse[1] - inverse[0]))
    ones = torch.ones_like(depth)[..., None]
    return PhotoDepth(depth[..., None], ones, ones)


def _correlation(a: Tensor, b: Tensor, window: int) -> Tensor:
    """[D, H, W] of a [1, 3, H, W] with b [D, 3, H, W]."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, 1, window // 2, count_include_pad=False)

    a_mean, b_mean = mean(a), mean(b)
    covariance = mean(a * b) - a_mean * b_mean
    a_var, b_var = mean(a * a) - a_mean**2, mean(b * b) - b_mean**2
    return covariance.sum(1) / ((a_var.sum(1) + 3e-4).sqrt() * (b_var.sum(1) + 3e-4).sqrt())


if __name__ == "__main__":
    main(tyro.cli(Config))
