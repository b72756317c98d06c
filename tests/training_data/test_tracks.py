"""Windows of photos, and the tracks that a matcher would find in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_scenes import tiny_scene

from genfusion_ns.cameras import Camera, project
from genfusion_ns.training_data.tracks import KnownView, known_view, surface_tracks

WIDTH, HEIGHT = 40, 24


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> dict[str, np.ndarray]:
    content = load_file(tiny_scene(tmp_path_factory.mktemp("scenes"), family="tables"))
    return {**content, "depth": content["depth"].astype(np.float32)}


def views_of(scene, masks=None, **changed) -> list[KnownView]:
    content = {**scene, **changed}
    masks = np.ones(content["depth"].shape, bool) if masks is None else masks
    found = []
    for i, (w2c, K) in enumerate(zip(content["w2c"], content["K"], strict=True)):
        camera = Camera(torch.from_numpy(w2c), torch.from_numpy(K), WIDTH, HEIGHT)
        found.append(known_view(camera, content["rgb"][i], masks[i], content["depth"][i], f"{i}", i))
    return found


def test_a_known_view_is_the_window_around_its_known_pixels(scene):
    masks = np.zeros((6, HEIGHT, WIDTH), bool)
    masks[:, 10:20, 15:35] = True
    masks[:, 12, 18] = False
    whole, view = views_of(scene)[2], views_of(scene, masks)[2]
    assert view.view.image.shape == (10, 20, 3) and view.view.index == 2
    np.testing.assert_array_equal(view.view.image[2, 3], 0)
    np.testing.assert_array_equal(view.view.image[3, 3], scene["rgb"][2, 13, 18])
    np.testing.assert_array_equal(view.depth, scene["depth"][2, 10:20, 15:35])
    point = torch.tensor([[0.1, 0.2, -0.1]], dtype=torch.float64)
    full, cut = (project(point, seen.view.camera)[0] for seen in (whole, view))
    torch.testing.assert_close(full - cut, torch.tensor([[15.0, 10.0]], dtype=torch.float64))


def seeds_with_tracks(views) -> list[int]:
    return [seed for seed in range(12) if len(surface_tracks(views, np.random.default_rng(seed)).xyz)]


def test_tracks_lie_on_surfaces_that_two_views_see(scene):
    views = views_of(scene)
    checked = 0
    for seed in seeds_with_tracks(views):
        found = surface_tracks(views, np.random.default_rng(seed))
        count = np.bincount(found.tracks.point, minlength=len(found.xyz))
        assert len(found.xyz) <= 1500 and np.isfinite(found.xyz).all()
        # noise moves a few off the surface that they were found on
        assert np.mean(count >= 2) > 0.6
        for v, view in enumerate(views):
            mine = found.tracks.image == v
            pixels, depth = (
                x.numpy() for x in project(torch.from_numpy(found.xyz[found.tracks.point[mine]]), view.view.camera)
            )
            K = view.view.camera.K.numpy()
            np.testing.assert_allclose(found.tracks.ray[mine] * K[[0, 1], [0, 1]] + K[:2, 2], pixels, atol=1e-6)
            place = np.floor(pixels).astype(int)
            true = view.depth[place[:, 1], place[:, 0]]
            assert (np.abs(true - depth) < 0.03 * depth).all()
            checked += len(depth)
    assert checked > 300


def test_tracks_depend_on_known_pixels_only(scene):
    masks = np.zeros((6, HEIGHT, WIDTH), bool)
    masks[:, :, : WIDTH // 2] = True
    masks[:, [0, -1], -1] = True  # the window is the whole photo, and the mask alone hides the rest
    rgb = np.where(masks[..., None], scene["rgb"], 255 - scene["rgb"])
    depth = np.where(masks, scene["depth"], 0.5 * scene["depth"])
    views, others = views_of(scene, masks), views_of(scene, masks, rgb=rgb, depth=depth)
    for seed in seeds_with_tracks(views):
        one, two = (surface_tracks(some, np.random.default_rng(seed)) for some in (views, others))
        np.testing.assert_array_equal(one.xyz, two.xyz)
        np.testing.assert_array_equal(one.tracks.ray, two.tracks.ray)


def test_one_view_has_no_tracks_and_every_fifth_scene_neither(scene):
    assert seeds_with_tracks(views_of(scene)[:1]) == []
    views = views_of(scene)
    without = sum(len(surface_tracks(views, np.random.default_rng(seed)).xyz) == 0 for seed in range(60))
    assert 4 <= without <= 22


def test_places_without_depth_have_no_tracks(scene):
    views = views_of(scene, depth=np.full_like(scene["depth"], np.inf))
    assert seeds_with_tracks(views) == []
    assert seeds_with_tracks(views_of(scene, depth=0 * scene["depth"])) == []
