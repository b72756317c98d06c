"""The video model behind the socket, with a few thousand random weights."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from loop_scene import ball
from tiny_networks import BOTH, FUSION, tiny_pipeline

from genfusion_ns.errors import UserError
from genfusion_ns.loop.captured import SeenViews
from genfusion_ns.loop.config import DiffusionConfig, LoopConfig
from genfusion_ns.loop.repairers.base import HoldsDevice, NeedsFiles
from genfusion_ns.loop.round import CapturedViews, Loop, render_clip
from genfusion_ns.loop.state import LoopState
from genfusion_ns.loop.supervision import refine
from genfusion_ns.loop.supervision.refine import with_photos
from genfusion_ns.loop.view_buffer import GeneratedViews


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "weights"
    tiny_pipeline(seed=0).save_pretrained(folder)
    return folder


def config(weights, **changes) -> LoopConfig:
    options = {"weights": str(weights), "steps": 2, **changes}
    return LoopConfig(repairer="diffusion", diffusion=DiffusionConfig(**options), frames=6, clip_length=4)


@pytest.mark.slow
def test_it_repairs_as_the_pipeline_itself_does(around, weights):
    told = []
    repairer = config(weights, guidance=2.0).make_repairer("cpu", told.append)
    clip = render_clip(ball, around[:4])
    photo = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0))
    repaired = repairer.repair(clip, photo)
    assert repaired.rgb.shape == clip.rgb.shape
    assert repaired.disparity.shape == repaired.confidence.shape == clip.depth.shape
    assert repaired.rgb.min() >= 0
    assert repaired.rgb.max() <= 1
    assert repaired.disparity.min() > 0
    assert "4 frames of 32x24" in told[0]
    assert "guidance on" in told[0]
    again = repairer.repair(clip, photo)
    assert torch.equal(again.rgb, repaired.rgb)
    assert len(told) == 1
    other = repairer.repair(replace(clip, seed=1), photo)
    assert not torch.equal(other.rgb, repaired.rgb)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "loaded"), [(0, False), (None, True), (2, True)])
def test_what_draws_is_not_loaded_where_frames_are_only_fused(around, tmp_path, steps, loaded):
    tiny_pipeline(BOTH).save_pretrained(tmp_path / "both")
    repairer = config(tmp_path / "both", steps=steps).make_repairer("cpu", lambda text: None)
    clip = render_clip(ball, around[:2])
    clip = with_photos(clip, SeenViews(ball, CapturedViews(around, lambda i: ball(around[i]).color), 32), 2)
    assert repairer.repair(clip, torch.rand(20, 30, 3)).gain is not None
    networks = {type(network).__name__ for network in repairer._networks()}
    assert networks >= {"FusionNetwork"} and ({"LiteVideoUNet", "PatchAutoencoder", "Resampler"} <= networks) == loaded


def test_weights_that_cannot_fuse_want_steps(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "official")
    config(tmp_path / "official", steps=1).make_repairer().check_files()
    with pytest.raises(UserError, match="steps is 0.*expected 1 or more"):
        config(tmp_path / "official", steps=0).make_repairer().check_files()


@pytest.fixture(scope="module")
def fusing(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "fusing"
    tiny_pipeline(FUSION).save_pretrained(folder)
    return folder


def seen_clip(around):
    views = SeenViews(ball, CapturedViews(around[2:], lambda i: ball(around[2 + i]).color), 32)
    return with_photos(render_clip(ball, around[:2]), views, 2)


@pytest.mark.slow
def test_a_model_that_invents_is_believed_everywhere_and_its_disparity_has_no_unit(around, weights):
    repaired = config(weights).make_repairer().repair(seen_clip(around), torch.zeros(8, 8, 3))
    assert repaired.confidence.min() == 1 and not repaired.metric


def test_a_fusion_network_is_believed_where_it_is_sure_and_better_and_knows_the_unit(around, fusing):
    clip = seen_clip(around)
    told: list[str] = []
    # a preset's guidance has no meaning where nothing is sampled
    repairer = config(fusing, guidance=2.2).make_repairer("cpu", told.append)
    repaired = repairer.repair(clip, torch.zeros(8, 8, 3))
    pipeline = tiny_pipeline(FUSION)
    expected = pipeline(clip.rgb, clip.depth, clip.alpha, torch.zeros(8, 8, 3), clip.warped)
    assert torch.equal(repaired.rgb, expected.rgb) and torch.equal(repaired.disparity, expected.disparity)
    assert torch.equal(repaired.confidence, expected.certainty) and torch.equal(repaired.gain, expected.gain)
    assert repaired.metric and "guidance off" in told[0]
    without = repairer.repair(replace(clip, warped=None), torch.zeros(8, 8, 3))
    assert not torch.equal(without.rgb, repaired.rgb)


def test_nothing_is_loaded_before_the_first_clip(weights):
    repairer = config(weights).make_repairer()
    assert repairer._pipeline is None
    assert repairer.fingerprint == ""
    assert isinstance(repairer, HoldsDevice)
    repairer.release()


@pytest.mark.slow
def test_fingerprints_tell_weights_apart(around, weights, tmp_path):
    tiny_pipeline(seed=1).save_pretrained(tmp_path / "other")
    clip, photo = render_clip(ball, around[:2]), torch.zeros(8, 8, 3)
    found = []
    for folder in (weights, weights, tmp_path / "other"):
        repairer = config(folder).make_repairer()
        repairer.repair(clip, photo)
        found.append(repairer.fingerprint)
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 12


def test_weights_are_looked_at_before_there_is_a_clip(weights, tmp_path):
    repairer = config(weights).make_repairer()
    assert isinstance(repairer, NeedsFiles)
    repairer.check_files()
    (tmp_path / "empty").mkdir()
    broken = Path(shutil.copytree(weights, tmp_path / "broken"))
    cut = broken / "unet" / "diffusion_pytorch_model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-7])
    missing = Path(shutil.copytree(weights, tmp_path / "missing"))
    (missing / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for name, words in {
        "no-such-weights": "there are no weights",
        str(tmp_path / "empty"): "model_index.json",
        str(broken): "is truncated",
        str(missing): "is missing",
    }.items():
        with pytest.raises(UserError, match=f"repairer 'diffusion': .*{words}"):
            config(name).make_repairer().check_files()


@pytest.mark.slow
def test_mistakes_are_messages(around, weights):
    clip, photo = render_clip(ball, around[:2]), torch.zeros(8, 8, 3)
    with pytest.raises(UserError, match="repairer 'diffusion': there are no weights"):
        config("no-such-weights").make_repairer().repair(clip, photo)
    with pytest.raises(UserError, match="the budget is 1KiB. Lower loop.max-side"):
        config(weights, memory="1KiB").make_repairer().repair(clip, photo)


@pytest.mark.slow
def test_empty_renders_are_repaired_too(around, weights):
    clip = render_clip(ball, around[:2])
    empty = type(clip)(0 * clip.rgb, 0 * clip.depth, 0 * clip.alpha, clip.cameras)
    assert config(weights).make_repairer().repair(empty, torch.zeros(8, 8, 3)).rgb.isfinite().all()


@pytest.mark.slow
def test_a_round_releases_the_device_and_notes_the_weights(around, weights, monkeypatch):
    # random weights paint noise, which the loop would rightly refuse
    monkeypatch.setattr(refine, "contradiction", lambda *_: (0.0, 1.0))
    repairer = config(weights).make_repairer()
    released = []
    repairer.release = lambda: released.append(True)
    state = LoopState(GeneratedViews(50))
    views = CapturedViews(around, lambda i: ball(around[i]).color)
    Loop(config(weights), repairer, 0, state).round(10, ball, views)
    assert released == [True]
    assert {f.provenance.fingerprint for f in state.pool.frames} == {repairer.fingerprint}
    assert "diffusion" in sys.modules
