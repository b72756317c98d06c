"""Batches of the fusion network: true to their fits, and functions of (seed, step) alone."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_fits import toy_fit, write_toys

from diffusion.errors import UserError
from diffusion.train import fit_clips
from diffusion.train.fit_clips import (
    FusionBatch,
    Window,
    cut,
    exposed,
    fit_clip,
    keep_all_warps,
    kept_fit,
    make_batch,
    photographed,
)

WINDOW = Window(3, 16, 24)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_toys(tmp_path_factory.mktemp("fits"), 3)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(one: FusionBatch, other: FusionBatch) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(FusionBatch))


def test_a_step_has_one_batch_and_another_step_or_seed_another(paths):
    first = make_batch(paths, 0.4, 5, 7, 2, WINDOW, 4)
    others = [make_batch(paths, 0.4, *numbers, 2, WINDOW, 4) for numbers in ((5, 8), (6, 7))]
    kept_fit.cache_clear()
    assert same(first, make_batch(paths, 0.4, 5, 7, 2, WINDOW, 4))
    assert not any(same(first, other) for other in others)


def test_shapes_and_ranges(paths):
    for step in range(8):
        batch = make_batch(paths, 0.4, 0, step, 2, WINDOW, 4)
        for name, channels in {"rgb": 3, "alpha": 1, "disparity": 1, "target": 3, "target_disparity": 1}.items():
            assert getattr(batch, name).shape == (2, 3, channels, 16, 24), name
        assert batch.sources.shape == (2, 3, 4, 8, 16, 24)
        assert all(getattr(batch, f.name).isfinite().all() for f in fields(FusionBatch))
        for values in (batch.rgb, batch.alpha, batch.target, batch.sources[:, :, :, :4]):
            assert values.min() >= 0 and values.max() <= 1
        # two of the four photos exist
        assert batch.sources[:, :, 2:].abs().max() == 0
        hidden = batch.sources[:, :, :, 3:4] == 0
        assert (batch.sources * hidden).abs().max() == 0


def test_a_clip_is_what_its_fit_says(paths):
    fit, frames = kept_fit(paths[1]), [4, 2, 0]
    clip = fit_clip(paths[1], 1, frames, (5, 9, 16, 24), 2)
    part = (slice(5, 21), slice(9, 33))
    for i, f in enumerate(frames):
        assert torch.equal((clip.rgb[i] * 255).round().byte(), fit.render_rgb[1, f][part].permute(2, 0, 1))
        assert torch.equal((clip.target[i] * 255).round().byte(), fit.target_rgb[f][part].permute(2, 0, 1))
        depth = fit.target_depth[f][part].permute(2, 0, 1).float()
        known = depth > 0
        torch.testing.assert_close(1 / clip.target_disparity[i][known], depth[known], rtol=1e-3, atol=0)
        assert (clip.target_disparity[i][~known] == 0).all()
    # photos belong where they show the truth
    shown = (clip.sources[:, :, 3:4] > 0) & (clip.sources[:, :, 4:5].abs() < 0.1)
    assert float(shown.float().mean()) > 0.5
    off = (clip.sources[:, :, :3] - clip.target[:, None]).abs().amax(2, keepdim=True)[shown]
    assert float(off.quantile(0.9)) < 0.03


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 10**6))
def test_a_cut_lies_within_its_fit(frames, count, seed):
    fit = toy_fit(frames=count)
    chosen, (top, left, height, width) = cut(fit, Window(frames, 16, 32), seeded(seed))
    assert len(chosen) == frames and min(chosen) >= 0 and max(chosen) < count
    assert (height, width) == (16, 32) and 0 <= top <= 32 - 16 and 0 <= left <= 48 - 32
    steps = {b - a for a, b in zip(chosen, chosen[1:], strict=False)}
    if frames <= count:
        assert len(steps) <= 1 and steps <= {1, 2, -1, -2}


def test_cuts_reach_everything():
    fit, places = toy_fit(), [cut(toy_fit(), Window(2, 31, 46), seeded(seed)) for seed in range(80)]
    assert {box[:2] for _, box in places} == {(t, left) for t in range(2) for left in range(3)}
    assert {f for frames, _ in places for f in frames} == set(range(len(fit.target_rgb)))


def test_fits_that_are_too_small_are_passed_over_or_told(paths, tmp_path):
    small = write_toys(tmp_path, 1, width=16, height=16)
    with pytest.raises(UserError, match="no fit of 1 has 24 x 16 pixels"):
        make_batch(small, 0.4, 0, 0, 1, WINDOW, 2)
    assert make_batch([*small, paths[0]], 0.4, 0, 0, 4, WINDOW, 2).rgb.shape[0] == 4


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_so_many_clips_are_of_captures(paths, tmp_path, share):
    (capture,) = write_toys(tmp_path, 1)
    capture = capture.rename(tmp_path / "capture_fern_fit000.safetensors")
    drawn = []
    picked = lambda some, window, random: drawn.append(list(some)) or some[0]  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_clips, "drawn_fit", picked)
        for step in range(12):
            make_batch([paths[0], capture], share, 0, step, 4, WINDOW, 2)
        assert all(some in ([capture], [paths[0]]) for some in drawn)
        assert sum(some == [capture] for some in drawn) / len(drawn) == pytest.approx(share, abs=0.2)
        drawn.clear()
        make_batch(paths, share, 0, 0, 2, WINDOW, 2)  # without any, all are of the others
        assert drawn == [paths, paths]


def test_photos_are_missing_at_times_and_exposed_alike_in_all_frames():
    sources, order = torch.rand(3, 2, 8, 4, 4, generator=seeded(0)), torch.tensor([[0, 1], [1, 0], [1, 2]])
    sources[:, :, 3] = 1
    missing = []
    for seed in range(200):
        found = exposed(sources, order, seeded(seed))
        assert torch.equal(found[:, :, 4:], sources[:, :, 4:] * found[:, :, 3:4])
        present = found[:, :, 3, 0, 0]
        missing.append(3 - len({int(n) for n in order[present > 0]}))
        for photo in range(3):
            mine = order == photo
            assert len(present[mine].unique()) == 1
            gains = [found[i, j, :3] / sources[i, j, :3] for i, j in mine.nonzero().tolist()]
            unclipped = [g[(found[i, j, :3] < 1)] for g, (i, j) in zip(gains, mine.nonzero().tolist(), strict=True)]
            assert all(float(g.max() - g.min()) < 0.6 for g in unclipped if len(g))
    assert 0.2 < sum(n == 1 for n in missing) / 200 < 0.4 and 0 < sum(n == 3 for n in missing) < 20
    nobody = exposed(sources, torch.full((3, 2), -1), seeded(0))
    assert nobody.shape == sources.shape


def test_other_light_falls_on_renderings_photos_and_truth_alike(paths):
    """What was equal to the truth still is, and what was transparent still lets through as much."""
    clip = fit_clip(paths[0], 0, [1, 2, 3], (0, 0, 32, 48), 2)
    shown = torch.ones_like(clip.sources[:, :, 3:4])
    photos = torch.cat([clip.target[:, None].expand(-1, 2, -1, -1, -1), shown, clip.sources[:, :, 4:]], 2)
    equal = replace(clip, rgb=clip.target, alpha=torch.ones_like(clip.alpha), sources=photos)
    changed = mirrored = 0
    for seed in range(12):
        found = photographed(equal, seeded(seed))
        torch.testing.assert_close(found.rgb, found.target)
        torch.testing.assert_close(found.sources[:, 1, :3], found.target)
        assert found.target.min() >= 0 and found.target.max() <= 1
        changed += float((found.target - clip.target).abs().max()) > 0.05
        flipped = torch.equal(found.target_disparity, clip.target_disparity.flip(-1))
        mirrored += flipped
        assert torch.equal(found.disparity, clip.disparity.flip(-1) if flipped else clip.disparity)
        assert torch.equal(found.sources[:, :, 4:], photos[:, :, 4:].flip(-1) if flipped else photos[:, :, 4:])
        empty = photographed(replace(clip, rgb=0 * clip.rgb, alpha=0 * clip.alpha, sources=0 * photos), seeded(seed))
        assert empty.rgb.abs().max() < 1e-3 and empty.sources.abs().max() < 1e-3
    assert changed > 6 and 0 < mirrored < 12


def test_warps_that_are_found_ahead_are_the_same(paths, monkeypatch):
    monkeypatch.setattr(fit_clips, "_ALL_WARPS", {})
    batch = make_batch(paths, 0.0, 0, 0, 2, WINDOW, 2)
    keep_all_warps(paths, 2, "cpu")
    monkeypatch.setattr(fit_clips, "recent_warps", None)
    assert same(make_batch(paths, 0.0, 0, 0, 2, WINDOW, 2), batch)
