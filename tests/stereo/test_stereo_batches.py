"""Training batches: what they say of the truth is true, and every step has its own."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from stereo_scene import camera_at, colours, exact_depth

from genfusion_ns.cameras import unproject
from genfusion_ns.stereo.sweep import sample_planes, swept_pixels
from genfusion_ns.stereo.train import batches
from genfusion_ns.stereo.train.batches import coarser, make_batch


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    cameras = [camera_at((3.0, 0.15 * i - 0.6, 0.4), 96, 72) for i in range(8)]
    depths = [exact_depth(camera) for camera in cameras]
    rgb = [colours(unproject(depth, camera)) for depth, camera in zip(depths, cameras, strict=True)]
    path = tmp_path_factory.mktemp("scenes") / "scene_00000.safetensors"
    tensors = {
        "rgb": (255 * torch.stack(rgb)).round().to(torch.uint8).numpy(),
        "depth": torch.stack(depths)[..., 0].half().numpy(),
        "w2c": torch.stack([camera.w2c for camera in cameras]).double().numpy(),
        "K": torch.stack([camera.K for camera in cameras]).double().numpy(),
    }
    save_file(tensors, path)
    return path


def test_a_step_has_one_batch_and_another_step_another(scene):
    a, b, c = (make_batch([scene], 5, step, 2, ((48, 64),)) for step in (7, 7, 8))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert a.photo.shape == (2, 3, 48, 64) and a.tracks.shape == (2, 1, 12, 16)
    assert a.sources.shape != c.sources.shape or not torch.equal(a.sources, c.sources)


def test_the_truth_finds_the_same_colours_in_the_sources(scene, monkeypatch):
    monkeypatch.setattr(batches, "_photographed", lambda pictures, rng: pictures)
    monkeypatch.setattr(batches, "_shaken", lambda view, rng: view.w2c)
    for step in range(5):
        batch = make_batch([scene], 1, step, 1, ((48, 64), (64, 48)))
        pixels, ratio = swept_pixels(batch.projections[:, 0], batch.inverse_depth)
        seen, inside = sample_planes(batch.sources[:, 0], pixels, ratio)
        error = (seen[0, :, 0] - batch.photo[0].flatten(1)).abs().mean(0)[inside[0, 0] > 0]
        assert float(error.median()) < 0.06
        finite = batch.inverse_depth[batch.known > 0]
        assert float(finite.max()) < 1.3 * float(batch.nearest[0]) / 0.3
        assert bool((batch.seen.sum(1) <= batch.sources.shape[1]).all())


def test_tracks_are_near_the_truth(scene):
    found = 0
    for step in range(12):
        batch = make_batch([scene], 2, step, 1, ((48, 64),))
        there = batch.tracks[0, 0] >= 0
        found += int(there.sum())
        if there.sum() > 10:
            truth = torch.nn.functional.unfold(batch.inverse_depth, 4, stride=4)[0].reshape(16, 12, 16)
            closest = (truth / batch.tracks[0] - 1).abs().amin(0)[there]
            assert float(closest.median()) < 0.02
    assert found > 20


def test_coarser_truth_takes_the_centre_or_the_nearest_known_surface():
    values = torch.arange(16.0).reshape(1, 1, 4, 4)
    known = torch.ones_like(values)
    small, has = coarser(values, known, 2)
    assert small.flatten().tolist() == [5.0, 7.0, 13.0, 15.0] and bool(has.all())
    known[..., 1, 1] = 0
    known[..., 2:, 2:] = 0
    small, has = coarser(values, known, 2)
    assert small.flatten().tolist()[:3] == [4.0, 7.0, 13.0] and has.flatten().tolist() == [1, 1, 1, 0]


def test_cut_views_keep_their_rays(scene):
    from safetensors.numpy import load_file

    data = load_file(scene)
    view = batches._cut(data, 2, 40, 56, 1.2, np.random.default_rng(0))
    camera = camera_at((3.0, -0.3, 0.4), 96, 72)
    v, u = 20, 28
    ray = np.linalg.inv(view.K) @ [u + 0.5, v + 0.5, 1.0]
    point = (ray * view.depth[v, u] - view.w2c[:3, 3]) @ view.w2c[:3, :3]
    radius = np.linalg.norm(point)
    assert min(abs(radius - 1), abs(radius - 6)) < 0.05 and camera.width == 96
