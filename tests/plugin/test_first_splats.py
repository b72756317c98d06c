"""The first splats of a run: kept depth is taken over, and tracks decide how many splats are spread."""

from pathlib import Path

import numpy as np
import torch

from genfusion_ns.cameras import Camera
from genfusion_ns.data.colmap import Tracks
from genfusion_ns.data.points import FEW_TRACKS
from genfusion_ns.data.triangulate import Triangulated
from genfusion_ns.data.views import TrainView
from genfusion_ns.plugin.first_splats import depth_folder
from genfusion_ns.stereo.capture_depth import FILE_NAME, CaptureDepth
from genfusion_ns.stereo.posed_photos import PhotoDepth, posed_photos
from genfusion_ns.stereo.surfels import first_splats


def wall(tracks: int) -> tuple[list[TrainView], CaptureDepth, Triangulated]:
    """One photo of a wall 2 ahead, with so many tracks on it."""
    K = torch.tensor([[40.0, 0, 20], [0, 40, 15], [0, 0, 1]], dtype=torch.float64)
    view = TrainView(Camera(torch.eye(4, dtype=torch.float64), K, 40, 30), np.full((30, 40, 3), 90, np.uint8), "a", 0)
    rays = np.random.default_rng(0).uniform(-0.3, 0.3, (tracks, 2))
    seen = Tracks(np.arange(tracks), np.zeros(tracks, np.int64), rays)
    found = Triangulated(np.concatenate([2 * rays, np.full((tracks, 1), 2.0)], 1), seen, np.arange(tracks))
    photos = posed_photos([view], found)
    depth = torch.full((30, 40, 1), 2.0)
    return [view], CaptureDepth(photos, [PhotoDepth(depth, torch.ones_like(depth), 0.02 * depth)]), found


def test_half_of_the_splats_are_spread_where_tracks_anchor_them_and_none_without():
    for count, share in ((0, 0.0), (FEW_TRACKS - 1, 0.0), (FEW_TRACKS, 0.5)):
        views, found, tracks = wall(count)
        made = first_splats(views, found.photos, found.depths, tracks, budget=400, seed=1)
        assert 380 <= len(made.xyz) <= 400
        off_wall = (made.xyz[:, 2] - 2).abs() > 1e-4
        assert abs(float(off_wall.float().mean()) - share) < 0.06
        assert float(made.normals[off_wall].abs().sum()) == 0


def test_each_track_is_one_splat_however_many_photos_see_it_and_tracks_are_at_most_half_of_all():
    (view,), found, tracks = wall(100)
    seen = tracks.tracks
    both = Tracks(np.tile(seen.point, 2), np.repeat([0, 1], 100), np.tile(seen.ray, (2, 1)))
    twice = Triangulated(tracks.xyz, both, tracks.origin)
    for budget, kept in ((1000, 100), (60, 30)):
        made = first_splats([view, view], found.photos * 2, found.depths * 2, twice, budget, seed=1)
        distance = torch.cdist(made.xyz.double(), torch.from_numpy(tracks.xyz))
        assert int((distance < 1e-6).sum()) == kept and int((distance < 1e-6).sum(0).max()) == 1
        at_track = (distance < 1e-6).any(1)
        assert (
            float((made.rgb[at_track] - 90 / 255).abs().max()) < 1e-6 and float(made.normals[at_track].abs().max()) == 0
        )


def test_a_resumed_run_takes_over_the_depth_that_was_kept(tmp_path: Path):
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "nerfstudio_models").mkdir(parents=True)
    (old / FILE_NAME).write_bytes(b"depth")
    assert depth_folder(new, old / "nerfstudio_models" / "step-1.ckpt") == new
    assert (new / FILE_NAME).read_bytes() == b"depth"
    (old / FILE_NAME).write_bytes(b"other")
    depth_folder(new, old / "nerfstudio_models" / "step-1.ckpt")
    assert (new / FILE_NAME).read_bytes() == b"depth"
    assert depth_folder(tmp_path / "fresh", None) == tmp_path / "fresh"
