"""The training loop: exact resume, bad steps, checkpoints and the log."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_fits import write_toys

from diffusion.errors import UserError
from diffusion.inputs.filling import filled
from diffusion.models.fusion import Fused, FusionNetwork
from diffusion.train import fusion
from diffusion.train.checkpoint import TrainState, average_of, checkpoints
from diffusion.train.fit_clips import Window, make_batch
from diffusion.train.fusion import FusionConfig, find_fits, fusion_loss
from diffusion.train.steps import StepsConfig, made_ahead, train_steps


def fresh(seed: int = 0) -> TrainState:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    return TrainState(model, torch.optim.AdamW(model.parameters(), lr=1e-2), average_of(model))


def run(config: StepsConfig, spoil=lambda step, loss: loss, kept: list | None = None) -> TrainState:
    """A regression whose data follow from the step."""
    state = fresh()

    def make(step):
        return torch.randn(8, 3, generator=torch.Generator().manual_seed(step))

    def loss(step, x):
        value = (state.model(x)[:, 0] - x.prod(1)).square().mean()
        return spoil(step, value), {"error": value.detach()}

    def keep():
        (kept if kept is not None else []).append(state.step)
        return {"db": 1.0}

    train_steps(state, config, make, loss, keep)
    return state


def everything(state: TrainState) -> dict[str, torch.Tensor]:
    moments = state.optimizer.state_dict()["state"]
    found = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    found |= {f"average.{name}": value for name, value in state.average.items()}
    return found | {f"{i}.{name}": torch.as_tensor(v) for i, entry in moments.items() for name, v in entry.items()}


def assert_equal(one: TrainState, other: TrainState) -> None:
    assert (one.step, one.skipped) == (other.step, other.skipped)
    a, b = everything(one), everything(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    config = StepsConfig(output=tmp_path / "whole", steps=4)
    parts = replace(config, output=tmp_path / "parts")
    whole = run(config)
    assert run(replace(parts, stop_after=2)).step == 2
    assert_equal(run(parts), whole)
    assert not torch.equal(everything(whole)["model.0.weight"], everything(fresh())["model.0.weight"])
    # a run that has ended does nothing more
    assert_equal(run(parts), whole)


def test_batches_that_processes_make_ahead_are_the_same(tmp_path):
    config = StepsConfig(output=tmp_path / "here", steps=12)
    assert_equal(run(replace(config, output=tmp_path / "ahead", workers=2)), run(config))


def test_batches_come_in_order_from_processes_of_their_own():
    def make(step: int) -> torch.Tensor:
        return torch.tensor([step, os.getpid()])

    assert torch.stack([*made_ahead(make, 3, 6, 0)]).tolist() == [[step, os.getpid()] for step in (3, 4, 5)]
    steps, makers = torch.stack([*made_ahead(make, 3, 9, 2)]).unbind(1)
    assert steps.tolist() == [3, 4, 5, 6, 7, 8]
    assert len(set(makers.tolist())) == 2 and os.getpid() not in makers.tolist()


def test_a_broken_checkpoint_is_passed_over(tmp_path):
    config = StepsConfig(output=tmp_path / "a", steps=4, save_every=1)
    whole = run(replace(config, output=tmp_path / "b"))
    run(replace(config, stop_after=2))
    newest = checkpoints(config.output / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:-50])
    assert_equal(run(config), whole)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_changes_nothing(tmp_path, bad, caplog):
    three = run(StepsConfig(output=tmp_path / "a", steps=9, stop_after=3))
    spoiled = run(StepsConfig(output=tmp_path / "b", steps=9, stop_after=5), lambda k, v: v * bad if k > 2 else v)
    assert (spoiled.step, spoiled.skipped) == (5, 2)
    spoiled.step, spoiled.skipped = 3, 0
    assert_equal(spoiled, three)
    assert "step 4 was skipped" in caplog.text


def test_checkpoints_validations_and_the_log_come_when_they_should(tmp_path):
    kept: list[int] = []
    run(StepsConfig(output=tmp_path, steps=250, save_every=60, keep_every=100), kept=kept)
    assert kept == [100, 200, 250]
    assert [int(path.stem[5:]) for path in checkpoints(tmp_path / "checkpoints")] == [240, 250]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [100, 200]
    assert [line["step"] for line in lines if "validation" in line] == [100, 200, 250]
    assert lines[0]["loss"] == lines[0]["error"] > 0
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 250


# -- the fusion network ----------------------------------------------------------------------------------------------


def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes) -> FusionConfig:
    """Windows and networks of a few pixels and weights; no LPIPS, whose weights may not be there."""
    small = {"widths": (4, 8), "source_width": 4, "blocks": (1, 1)}
    monkeypatch.setattr(fusion, "FusionNetwork", lambda: FusionNetwork(**small))
    monkeypatch.setattr(fusion, "SMALL_WINDOWS", (Window(2, 16, 24), Window(3, 16, 16)))
    if not (tmp_path / "fits").exists():
        write_toys(tmp_path / "fits")
    given = {"output": tmp_path / "out", "steps": 4, "perceptual_weight": 0.0, "threads": 1, **changes}
    return FusionConfig(fits=tmp_path / "fits", **given)


def test_training_of_the_fusion_network_resumes_exactly(tmp_path, monkeypatch):
    whole = fusion.train(config(tmp_path, monkeypatch, output=tmp_path / "whole"))
    fusion.train(config(tmp_path, monkeypatch, output=tmp_path / "parts", stop_after=2))
    parts = fusion.train(config(tmp_path, monkeypatch, output=tmp_path / "parts"))
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    folders = [tmp_path / run / "fusion" / "diffusion_pytorch_model.safetensors" for run in ("whole", "parts")]
    assert folders[0].read_bytes() == folders[1].read_bytes()


def test_fits_are_found_or_missed(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} holds no training fits; make some with genfusion-make-fits"):
        find_fits(tmp_path)
    assert find_fits(write_toys(tmp_path)[0].parent) == sorted(tmp_path.iterdir())


def test_the_loss_is_least_for_the_truth(tmp_path):
    batch = make_batch(write_toys(tmp_path), 0.0, 0, 0, 2, Window(2, 16, 24), 2)

    small, truth = torch.full_like(batch.alpha, 1e-3), batch.target_disparity.clamp_min(0.1)

    def loss(rgb=batch.target, disparity=truth, scale=small, before=small):
        return float(fusion_loss(Fused(rgb, disparity, scale, before), batch, 0.0, None)[0])

    best = loss()
    assert loss(rgb=batch.target + 0.1) > best
    assert loss(disparity=1.5 * truth) > best
    assert loss(scale=100 * small) > best
    # an error of 0.1 is most likely under a scale of 0.1, and so is the rendering's own error
    found = {s: loss(batch.target + 0.1, scale=s * torch.ones_like(small)) for s in (0.05, 0.1, 0.2)}
    assert min(found, key=found.__getitem__) == 0.1
    base = filled(batch.rgb.flatten(0, 1), batch.alpha.flatten(0, 1)).view_as(batch.target)
    error = float((base - batch.target).abs().mean())
    own = {s: loss(before=s * error * torch.ones_like(small)) for s in (0.5, 1.0, 2.0)}
    assert min(own, key=own.__getitem__) == 1.0
    # depth counts where it is known
    bent = torch.where(batch.target_disparity > 0, truth, 9.0)
    assert loss(disparity=bent) == pytest.approx(best)


def test_a_run_may_begin_with_weights_of_another(tmp_path, monkeypatch):
    given = config(tmp_path, monkeypatch)
    fusion.train(given)
    monkeypatch.undo()
    monkeypatch.setattr(fusion, "SMALL_WINDOWS", (Window(2, 16, 24),))
    start = FusionNetwork.from_pretrained(tmp_path / "out" / "fusion")
    network = fusion.train(replace(given, start=tmp_path / "out" / "fusion", output=tmp_path / "next", stop_after=0))
    for name, value in network.state_dict().items():
        assert torch.equal(value, start.state_dict()[name].float()), name
