"""Training through Nerfstudio's Trainer: resume, checkpoints, bad steps."""

from __future__ import annotations

import functools
import math
import signal
import time

import pytest
import torch
from nerfstudio.utils import writer

from genfusion_ns.errors import UserError
from genfusion_ns.gaussians.parameters import MEANS_RATE_END, RATES
from genfusion_ns.loop import round as rounds
from genfusion_ns.loop.repairers import base
from genfusion_ns.loop.repairers.base import IdentityRepairer


def final_state(trainer) -> dict[str, torch.Tensor]:
    """Everything that a longer run would depend on, flat."""
    model = trainer.pipeline.model
    state = {f"param {name}": value.detach().clone() for name, value in model.gauss_params.items()}
    state |= {f"densifier {name}": torch.as_tensor(value).clone() for name, value in model.densifier_state.items()}
    for group, optimizer in trainer.optimizers.optimizers.items():
        for moments in optimizer.state.values():
            state |= {f"{group} {name}": torch.as_tensor(value).clone() for name, value in moments.items()}
        state[f"{group} lr"] = torch.tensor(optimizer.param_groups[0]["lr"])
    return state


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


class Killed(Exception):
    """Stands for kill -9."""


@pytest.fixture
def eventful(scene, make_config):
    """A factory of runs of 30 steps in which everything happens: densification, growing degree, 3 rounds."""

    def config(repairer="diffusion", **overrides):
        made = make_config(scene, max_num_iterations=30, **overrides)
        model = made.pipeline.model
        model.reference_iterations, model.sh_degree_interval = 30, 7
        model.distortion_lambda, model.distortion_start, model.normal_start = 1e-2, 5, 8
        densifier = model.densifier
        densifier.start, densifier.stop, densifier.every, densifier.reset_every = 5, 24, 10, 22
        densifier.grow_grad2d, densifier.visible_base, densifier.visible_cap = 1e-6, 2, 4
        views = made.pipeline.datamanager
        views.reference_iterations, views.loop.start, views.loop.every, views.loop.until = 30, 8, 8, 26
        views.loop.frames, views.loop.max_side, views.loop.repairer = 4, 24, repairer
        return made

    return config


@pytest.mark.slow
@pytest.mark.parametrize("saved", [3, 15, 21])
def test_resume_continues_bit_for_bit(eventful, train, monkeypatch, saved):
    """Killed some steps after a checkpoint (before, at and after densification), a run ends with the same tensors."""
    config = eventful
    whole = train(config())
    first = config(steps_per_save=saved, timestamp="first")
    trainer = first.setup(local_rank=0, world_size=1)
    trainer.setup()
    next_train = trainer.pipeline.datamanager.next_train

    def killed_soon_after(step):
        if step == saved + 3:
            raise Killed
        return next_train(step)

    monkeypatch.setattr(trainer.pipeline.datamanager, "next_train", killed_soon_after)
    with pytest.raises(Killed):
        trainer.train()
    second = train(config(load_dir=first.get_checkpoint_dir(), timestamp="second"))
    assert second._start_step == saved + 1
    assert len(second.pipeline.datamanager.loop_state.reports) == 3
    assert second.pipeline.model.num_points > 400  # it did densify
    assert_same(final_state(whole), final_state(second))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_nothing_is_lost(eventful, train, monkeypatch, capsys, signum):
    """The step that is under way is finished and saved; the resumed run ends like one that was never stopped."""
    eventful = functools.partial(eventful, repairer="classical")
    whole = train(eventful())
    first = eventful(timestamp="first")
    trainer = first.setup(local_rank=0, world_size=1)
    trainer.setup()
    next_train = trainer.pipeline.datamanager.next_train
    stopped_by(monkeypatch, signum, trainer.pipeline.datamanager, "next_train", call=12, instead=next_train)
    with pytest.raises(SystemExit) as stopped:
        trainer.train()
    assert stopped.value.code == 128 + signum
    assert [path.name for path in first.get_checkpoint_dir().iterdir()] == ["step-000000011.ckpt"]
    said = capsys.readouterr().out
    assert "after 12 of 30 steps" in said and f"--load-dir {first.get_checkpoint_dir()} --timestamp first" in said
    second = train(eventful(load_dir=first.get_checkpoint_dir(), timestamp="second"))
    assert second._start_step == 12
    assert_same(final_state(whole), final_state(second))


@pytest.mark.slow
def test_a_signal_cuts_a_round_off_and_the_resumed_run_makes_up_for_it(eventful, train, monkeypatch):
    """Rounds take minutes, and those who send SIGTERM kill after seconds."""
    eventful = functools.partial(eventful, repairer="classical")
    whole = train(eventful())
    first = eventful(timestamp="first")
    trainer = first.setup(local_rank=0, world_size=1)
    trainer.setup()
    with monkeypatch.context() as patch:
        stopped_by(patch, signal.SIGTERM, rounds, "render_clip", call=2, instead=rounds.render_clip)
        with pytest.raises(SystemExit):
            trainer.train()
    assert trainer.pipeline.datamanager.loop_state.round < 3
    saved = [path.name for path in first.get_checkpoint_dir().iterdir()]
    with monkeypatch.context() as patch:  # and once more, before the resumed run has made a step
        stopped_by(patch, signal.SIGTERM, rounds, "render_clip", call=1, instead=rounds.render_clip)
        with pytest.raises(SystemExit):
            train(eventful(load_dir=first.get_checkpoint_dir(), timestamp="first"))
    assert [path.name for path in first.get_checkpoint_dir().iterdir()] == saved
    second = train(eventful(load_dir=first.get_checkpoint_dir(), timestamp="second"))
    reports = [[report.step for report in run.pipeline.datamanager.loop_state.reports] for run in (whole, second)]
    assert reports[0] == reports[1] and len(reports[0]) == 3
    assert_same(final_state(whole), final_state(second))


def stopped_by(monkeypatch, signum, owner, name, call, instead):
    """A signal comes during the given call (from 1) of `owner.name`."""
    calls = []

    def signalled(*args):
        calls.append(args)
        if len(calls) == call:
            signal.raise_signal(signum)
        return instead(*args)

    monkeypatch.setattr(owner, name, signalled)


class Slow(IdentityRepairer):
    """Takes a second for a clip."""

    name = "slow"

    def repair(self, clip, reference):
        time.sleep(1.0)
        return super().repair(clip, reference)


@pytest.mark.slow
def test_the_eta_counts_the_rounds_to_come_and_no_round_twice(eventful, train, monkeypatch, capsys):
    """Nerfstudio's counts a round as a slow step, of which it takes all to come to be; and no round before it."""
    monkeypatch.setitem(base._FACTORIES, "slow", f"{__name__}:Slow")
    seen = {}

    def note_eta():
        seen.update({event["step"]: event["event"] for event in writer.EVENT_STORAGE if event["name"] == "ETA (time)"})
        writer.EVENT_STORAGE.clear()

    monkeypatch.setattr(writer, "write_out_storage", note_eta)
    trainer = train(eventful(repairer="slow"))
    reports = trainer.pipeline.datamanager.loop_state.reports
    assert [report.step for report in reports] == [8, 16, 24]
    first, second = reports[0].seconds, (reports[0].seconds + reports[1].seconds) / 2
    assert 2 * first < seen[7] < 2 * first + 22 * 0.5  # the step that the round followed, from 0
    assert second < seen[15] < second + 14 * 0.5
    assert seen[28] < 0.5 < first
    said = capsys.readouterr().out
    assert "and 3 rounds of generated views, whose time shows with the first" in said
    assert said.count(" to go.") == 3 and "round 1: choosing views" in said


@pytest.mark.slow
def test_rounds_on_demand_and_paused_and_a_resume_after_them(scene, make_config, train, monkeypatch):
    """The panel's button and box act on the training thread's next step; what they did is in the checkpoint."""

    def config(**overrides):
        made = make_config(scene, max_num_iterations=20, steps_per_save=12, **overrides)
        views = made.pipeline.datamanager
        views.reference_iterations, views.loop.start, views.loop.every, views.loop.until = 20, 4, 5, 18
        views.loop.frames, views.loop.clip_length, views.loop.max_side = 3, 3, 24
        views.loop.trajectories = ("orbit",)
        return made

    def steps_of_rounds(trainer):
        return [report.step for report in trainer.pipeline.datamanager.loop_state.reports]

    def press(trainer, step):
        rounds = trainer.pipeline.rounds
        if step == 5:
            rounds.run_round.cb_hook(rounds.run_round)
        rounds.pause_rounds.default_value = 7 <= step < 12  # what it shows where there is no viewer

    def pressed(**overrides):
        trainer = config(**overrides).setup(local_rank=0, world_size=1)
        trainer.setup()
        next_train = trainer.pipeline.datamanager.next_train
        monkeypatch.setattr(
            trainer.pipeline.datamanager, "next_train", lambda step: press(trainer, step) or next_train(step)
        )
        trainer.train()
        return trainer

    first = pressed(timestamp="first", save_only_latest_checkpoint=False)
    assert steps_of_rounds(first) == [4, 6, 14]  # 9 was paused
    pictures = sorted(path.name for path in (first.base_dir / "rounds").iterdir())
    assert pictures == ["round_001.png", "round_002.png", "round_003.png"]
    assert "3 done" in first.pipeline.rounds.status.content

    (first.checkpoint_dir / "step-000000019.ckpt").unlink()
    second = train(config(load_dir=first.checkpoint_dir, timestamp="second"))
    assert steps_of_rounds(second) == [4, 6, 14]
    assert_same(final_state(first), final_state(second))


@pytest.mark.slow
def test_checkpoint_is_plain_and_whole(scene, make_config, train):
    config = make_config(scene, max_num_iterations=4)
    train(config)
    files = list(config.get_checkpoint_dir().iterdir())
    assert [path.name for path in files] == ["step-000000003.ckpt"]
    assert not list(config.get_base_dir().glob(".step-*"))
    loaded = torch.load(files[0], weights_only=True)
    assert loaded["step"] == 3
    text = repr([loaded["schedulers"], {k: v["param_groups"] for k, v in loaded["optimizers"].items()}])
    assert "numpy" not in text and "float64(" not in text


@pytest.mark.slow
def test_finished_run_is_not_trained_on(scene, make_config, train, capsys):
    config = make_config(scene, max_num_iterations=4)
    trainer = train(config)
    before = final_state(trainer)
    again = train(make_config(scene, max_num_iterations=4, load_dir=config.get_checkpoint_dir(), timestamp="b"))
    assert_same(before, final_state(again))
    assert "Nothing to train" in capsys.readouterr().out


def test_a_short_run_takes_larger_steps_unless_told_otherwise(scene, make_config):
    config = make_config(scene, max_num_iterations=1750)
    config.optimizers["quats"]["optimizer"].run_factor = 1.0
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in trainer.optimizers.optimizers.items()}
    assert rates == {name: rate * (1.0 if name == "quats" else 2.0) for name, rate in RATES.items()}
    decay = trainer.optimizers.schedulers["means"]
    assert decay.base_lrs[0] * decay.lr_lambdas[0](1750) == pytest.approx(2 * MEANS_RATE_END)


def test_bad_step_changes_nothing_and_many_stop_the_run(scene, make_config, capsys, monkeypatch):
    config = make_config(scene, max_num_iterations=10, max_bad_steps=3)
    config.pipeline.datamanager.loop.every = 0  # a round may add splats
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    model = trainer.pipeline.model
    before = {name: value.detach().clone() for name, value in model.gauss_params.items()}
    true_losses = model.get_loss_dict
    monkeypatch.setattr(model, "get_loss_dict", lambda *args: {k: v * math.nan for k, v in true_losses(*args).items()})
    with pytest.raises(UserError, match=r"3 steps in a row.*stops at step 2.*checkpoint"):
        trainer.train()
    assert "step 0 skipped" in capsys.readouterr().out
    for name, value in model.gauss_params.items():
        assert torch.equal(before[name], value)


def test_config_keeps_absolute_paths(scene, make_config, monkeypatch):
    monkeypatch.chdir(scene.parent)
    config = make_config(scene.relative_to(scene.parent), max_num_iterations=1)
    config.save_config()
    text = (config.get_base_dir() / "config.yml").read_text()
    assert config.pipeline.datamanager.data == scene
    assert str(scene.name) in text
