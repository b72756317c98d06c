"""One fit from a scene file: what it knows, what it stores, and that nothing that is hidden leaves a trace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tiny_scenes import FRAMES, TINY, spoiled, tiny_scene

from diffusion.train.fits import TrainingFit, read_fit
from genfusion_ns.training_data import make
from genfusion_ns.training_data.make import VERSION, fit_path, fit_steps, make_fit, write_scene_fit
from genfusion_ns.training_data.variants import Variant

SPARSE = Variant("sparse2", "sparse", 0, views=2)
CORNER = Variant("corner", "corner", 3)
RENDERED = ("render_rgb", "render_depth", "render_alpha")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return tiny_scene(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def fit_of(monkeypatch, brief, estimator):
    """A fit of a chosen variant."""

    def made(scene, variant: Variant, **changes) -> TrainingFit:
        monkeypatch.setattr(make, "draw_variant", lambda rng: variant)
        return make_fit(scene, 0, replace(TINY, **changes), estimator)

    return made


def test_a_fit_stores_the_truth_and_what_it_is_made_of(scene, fit_of):
    fit, content = fit_of(scene, SPARSE), load_file(scene)
    np.testing.assert_array_equal(fit.target_rgb.numpy(), content["rgb"])
    empty = ~np.isfinite(content["depth"])
    depth = np.where(empty, 0, content["depth"])
    np.testing.assert_allclose(fit.target_depth[..., 0].numpy(), depth, rtol=1e-3)
    torch.testing.assert_close(fit.cameras.w2c, torch.from_numpy(content["w2c"]).float())
    torch.testing.assert_close(fit.cameras.K, torch.from_numpy(content["K"]).float())
    assert fit.render_rgb.shape == (2, FRAMES, 24, 40, 3) and fit.render_alpha.float().mean() > 10
    assert not torch.equal(fit.render_rgb[0], fit.render_rgb[1])
    wanted = {"scene": "scene_00001", "variant": "sparse2", "train": [0, 5], "steps": [2, 5], "photos": 2}
    assert {**fit.provenance, **wanted, "version": VERSION, "number": 0} == fit.provenance
    assert [len(views) for views in fit.sources] == [2, 2]
    for source, i in zip(fit.sources[0], (0, 5), strict=True):
        torch.testing.assert_close(source.rgb, torch.from_numpy(content["rgb"][i]).float() / 255)
        torch.testing.assert_close(source.w2c, fit.cameras.w2c[i])
        assert source.confidence.min() >= 1 / 255


def test_a_sparse_fit_knows_no_photo_but_its_own(scene, fit_of, tmp_path):
    fit, other = (fit_of(file, SPARSE) for file in (scene, spoiled(scene, tmp_path, keep=[0, 5])))
    for name in RENDERED:
        assert torch.equal(getattr(fit, name), getattr(other, name)), name
    for one, two in zip(fit.sources[1], other.sources[1], strict=True):
        assert torch.equal(one.depth, two.depth) and torch.equal(one.rgb, two.rgb)
    assert not torch.equal(fit.target_rgb[1], other.target_rgb[1])
    seen = fit_of(spoiled(scene, tmp_path / "seen", keep=[1, 2, 3, 4, 5]), SPARSE)
    assert not torch.equal(fit.render_rgb, seen.render_rgb)


@pytest.mark.parametrize("variant", [CORNER, Variant("polygon25", "polygon", 3)], ids=lambda v: v.name)
def test_hidden_pixels_leave_no_trace_in_the_renders(scene, fit_of, tmp_path, variant):
    masks = variant.masks(FRAMES, 40, 24)
    content = load_file(scene)
    content["rgb"] = np.where(masks[..., None], content["rgb"], 255 - content["rgb"])
    content["depth"] = np.where(masks, content["depth"], np.float16(0.5) * content["depth"])
    save_file(content, tmp_path / scene.name)
    fit, other = fit_of(scene, variant), fit_of(tmp_path / scene.name, variant)
    assert fit.provenance["train"] == [] and fit.provenance["photos"] == FRAMES
    for name in RENDERED:
        assert torch.equal(getattr(fit, name), getattr(other, name)), name
    for one, two in zip(fit.sources[0], other.sources[0], strict=True):
        assert torch.equal(one.rgb, two.rgb) and torch.equal(one.confidence, two.confidence)


def test_photos_of_a_masked_fit_are_windows_that_hide_what_is_hidden(scene, fit_of):
    fit = fit_of(scene, Variant("polygon25", "polygon", 3))
    masks = Variant("polygon25", "polygon", 3).masks(FRAMES, 40, 24)
    for source, mask, rgb in zip(fit.sources[0], masks, fit.target_rgb, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        known = torch.from_numpy(mask[part])[..., None]
        assert torch.equal(source.confidence > 0, known)
        torch.testing.assert_close(source.rgb, rgb[part].float() / 255 * known)


def test_fits_follow_from_scene_number_and_seed(scene, brief, estimator):
    first, again = (make_fit(scene, 0, TINY, estimator) for _ in range(2))
    assert torch.equal(first.render_rgb, again.render_rgb) and first.provenance == again.provenance
    for other in (make_fit(scene, 1, TINY, estimator), make_fit(scene, 0, replace(TINY, seed=1), estimator)):
        assert other.render_rgb.shape != first.render_rgb.shape or not torch.equal(first.render_rgb, other.render_rgb)


def test_a_fit_that_is_there_is_kept(scene, brief, estimator, tmp_path):
    path = write_scene_fit(scene, 7, TINY, tmp_path, estimator)
    assert path == fit_path(tmp_path, scene, 7) == tmp_path / "scene_00001_fit007.safetensors"
    found = read_fit(path)
    assert found.provenance["number"] == 7 and found.render_rgb.shape[:2] == (2, FRAMES)
    stamp = path.stat().st_mtime_ns
    assert write_scene_fit(scene, 7, TINY, tmp_path, estimator).stat().st_mtime_ns == stamp


def test_of_a_long_capture_a_path_is_taken_and_brought_to_size(scene, fit_of):
    fit = fit_of(scene, SPARSE, frames=4, side=20)
    assert fit.target_rgb.shape in ((4, 12, 20, 3), (4, 24, 40, 3))  # every eighth fit is twice as large
    content = torch.from_numpy(load_file(scene)["w2c"]).float()
    found = [int((content - w2c).abs().amax((1, 2)).argmin()) for w2c in fit.cameras.w2c]
    assert len(set(found)) == 4
    assert all(float((content[i] - w2c).abs().max()) < 1e-6 for i, w2c in zip(found, fit.cameras.w2c, strict=True))


def test_fits_are_looked_at_when_rounds_of_the_loop_would_come():
    for seed in range(50):
        early, late = fit_steps(700, np.random.default_rng(seed))
        assert 70 <= early <= 210 < 245 <= late <= 525
