"""`supervision.gate`: what photos and novel views say about a round, what follows from it, and what is refused."""

import io
import logging
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loop_scene import aimed, textured
from oracle import EchoRepairer, OracleRepairer
from rich.console import Console

from genfusion_ns.loop.captured import CapturedViews
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.round import Loop
from genfusion_ns.loop.round_table import round_line, round_table
from genfusion_ns.loop.state import LoopState
from genfusion_ns.loop.supervision import gate
from genfusion_ns.loop.supervision.gate import Evidence
from genfusion_ns.loop.view_buffer import GeneratedViews

CAPTURED = [aimed((3.0, y, 1.0)).resized(96, 72) for y in (-0.4, 0.0, 0.4)]
SPARED = [aimed((2.9, 0.2, 1.1)).resized(96, 72)]
CONFIG = LoopConfig(frames=4, clip_length=4, trajectories=("orbit",))


def photos(cameras=CAPTURED) -> CapturedViews:
    return CapturedViews(cameras, lambda i: textured(cameras[i]).color)


def spoiled(amount: float):
    """Splats whose colours are off by so much, and whose contrast is less by as much."""
    return lambda camera: replace(textured(camera), color=(1 - amount) * textured(camera).color + amount * 0.5)


# -- pure rules ------------------------------------------------------------------------------------------------------

BEFORE = Evidence(psnr=20.0, ssim=0.7, sharpness=0.8, novel=0.05)


def after(**changes: float) -> Evidence:
    return replace(BEFORE, **changes)


@pytest.mark.parametrize(
    ("psnr", "outcome"),
    [
        (25, "accepted"),
        (20, "accepted"),
        (19.71, "accepted"),
        (19.6, "lowered"),
        (19.41, "lowered"),
        (19, "rolled back"),
    ],
)
def test_photos_that_do_not_train_judge_by_their_psnr(psnr, outcome):
    assert gate.judge(BEFORE, after(psnr=psnr), held=True) == outcome
    # those that train get better by training
    assert gate.judge(BEFORE, after(psnr=psnr), held=False) == "accepted"


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(
    ("psnr", "novel", "outcome"),
    [
        (20.0, 0.044, "rolled back"),
        (20.0, 0.046, "accepted"),
        (20.05, 0.03, "rolled back"),
        (20.2, 0.03, "accepted"),
    ],
)
def test_views_may_become_duller_only_where_photos_are_shown_better(held, psnr, novel, outcome):
    assert gate.judge(BEFORE, after(psnr=psnr, novel=novel), held) == outcome


def test_fog_before_photos_that_do_not_train_counts_as_well():
    foggy = after(sharpness=0.6)
    assert gate.judge(BEFORE, foggy, held=True) == "rolled back"
    assert gate.judge(BEFORE, foggy, held=False) == "accepted"
    without_views = replace(BEFORE, novel=0.0)
    assert gate.judge(without_views, without_views, held=True) == "accepted"


@given(*[st.floats(0, 60)] * 2, *[st.floats(0, 2)] * 2, *[st.floats(0, 1)] * 2, st.booleans())
def test_more_evidence_is_never_judged_worse(psnr, later, sharp, sharper, novel, more, held):
    order = ["rolled back", "lowered", "accepted"]
    before, now = Evidence(psnr, 0.5, sharp, novel), Evidence(later, 0.5, sharper, more)
    found = order.index(gate.judge(before, now, held))
    for better in ({"psnr": later + 0.5}, {"sharpness": sharper + 0.1}, {"novel": more + 0.1}):
        assert order.index(gate.judge(before, replace(now, **better), held)) >= found
    assert gate.judge(before, before, held) == "accepted"


def test_trust_is_lost_quicker_than_it_is_won():
    assert gate.trust([]) == gate.trust(["accepted"] * 5) == gate.trust(["open"]) == 1
    assert gate.trust(["lowered"]) == 0.5
    assert gate.trust(["rolled back"]) == 0.25
    assert gate.trust(["rolled back", "rolled back", "accepted"]) == 0.125
    assert gate.trust(["lowered", "accepted", "accepted"]) == 1


def test_who_is_held_out():
    assert gate.held_out(11, 12) == gate.held_out(100, 0) == gate.held_out(0, 12) == []
    assert gate.held_out(12, 12) == [6]
    assert gate.held_out(24, 12) == [8, 16]
    assert gate.held_out(2, 1) == [0, 1]


# -- evidence --------------------------------------------------------------------------------------------------------


def test_evidence_is_what_renders_look_like():
    held = photos(SPARED)
    found = gate.gather(spoiled(0.2), held, CAPTURED)
    error = 0.2 * (textured(held.cameras[0]).color - 0.5)
    assert found.psnr == pytest.approx(float(-10 * torch.log10(error.square().mean())), abs=1e-3)
    assert found.sharpness == pytest.approx(0.8, abs=1e-4)
    views = torch.stack([textured(camera).color for camera in CAPTURED])
    gradient = (views.diff(dim=1).abs().mean() + views.diff(dim=2).abs().mean()) / 2
    assert found.novel == pytest.approx(0.8 * float(gradient), rel=1e-3)
    assert 0.5 < found.ssim < 1
    perfect = gate.gather(textured, held, [])
    assert (perfect.psnr, perfect.novel) == (60.0, 0.0) and perfect.ssim == pytest.approx(1.0)
    big = CapturedViews([held.cameras[0].resized(640, 480)], lambda i: textured(held.cameras[0]).color)
    assert gate.gather(textured, big, []).psnr > 30


def test_a_few_of_many_photos_and_views_are_enough():
    seen = []
    many = [aimed((3.0, 0.01 * i, 1.0)) for i in range(40)]
    gate.gather(lambda camera: seen.append(camera) or textured(camera), photos(many), many)
    assert len(seen) == 2 * gate.PROBES


# -- rounds ----------------------------------------------------------------------------------------------------------


class Keeper:
    """Remembers what it was asked to do."""

    sh_degree = 0

    def __init__(self) -> None:
        self.calls: list[str] = []

    def room(self) -> int:
        return 0

    def append(self, new) -> None:
        raise AssertionError("there is no room")

    def keep(self) -> None:
        self.calls.append("keep")

    def restore(self) -> None:
        self.calls.append("restore")


def judge(render, state, keeper=None, held=SPARED) -> None:
    """At the end of the loop."""
    gate.judge_last_round(render, photos(held or CAPTURED), bool(held), state, keeper)


def rounds(*splats, keeper=None, held=SPARED) -> LoopState:
    """One round per stage of the splats, then the end of the loop with the last stage."""
    state = LoopState(GeneratedViews(99))
    for k, render in enumerate(splats[:-1]):
        Loop(CONFIG, EchoRepairer(), 0, state).round(k, render, photos(), splats=keeper, held=photos(held))
    judge(splats[-1], state, keeper, held)
    return state


@pytest.mark.slow
@pytest.mark.parametrize("held", [SPARED, []], ids=["spared", "all train"])
def test_good_rounds_are_accepted(held):
    state = rounds(spoiled(0.4), spoiled(0.3), spoiled(0.2), keeper=(keeper := Keeper()), held=held)
    assert [report.outcome for report in state.reports] == ["accepted", "accepted"]
    values = [evidence["psnr"] for report in state.reports for evidence in (report.before, report.after)]
    assert values[0] < values[1] == values[2] < values[3]
    assert keeper.calls == ["keep", "keep"]
    assert state.retired == []


@pytest.mark.slow
def test_a_somewhat_bad_round_loses_weight_where_photos_were_spared():
    state = rounds(spoiled(0.2), spoiled(0.21), keeper=(keeper := Keeper()))
    assert state.reports[0].outcome == "lowered"
    fresh = rounds(spoiled(0.2), spoiled(0.2))
    weights = [(a.weight, b.weight) for a, b in zip(state.pool.frames, fresh.pool.frames, strict=True)]
    assert weights and all(a == pytest.approx(0.5 * b) for a, b in weights)
    assert keeper.calls == ["keep"]
    assert rounds(spoiled(0.2), spoiled(0.21), held=[]).reports[0].outcome == "accepted"


@pytest.mark.slow
@pytest.mark.parametrize("held", [SPARED, []], ids=["spared", "all train"])
def test_a_bad_round_is_taken_back_and_the_next_one_trusted_less(caplog, held):
    stages = [spoiled(amount) for amount in (0.2, 0.2, 0.4, 0.2)]
    with caplog.at_level(logging.WARNING):
        state = rounds(*stages, keeper=(keeper := Keeper()), held=held)
    assert [report.outcome for report in state.reports] == ["accepted", "rolled back", "accepted"]
    assert "round 2 of step 1 is rolled back: photos" in caplog.text
    # judged before anything is remembered: the good splats are still there to go back to
    assert keeper.calls == ["keep", "keep", "restore", "keep"]
    # the bad round had pushed out frames of the first; they are back, and the third's count a quarter
    assert {f.provenance.round for f in state.pool.frames} == {0, 2}
    third = [f.weight for f in state.pool.frames if f.provenance.round == 2]
    assert max(third) <= 0.25 * 1.0001


def test_without_a_keeper_frames_still_leave():
    state = rounds(spoiled(0.2), spoiled(0.4))
    assert state.reports[0].outcome == "rolled back"
    assert len(state.pool) == 0


def test_judging_twice_changes_nothing():
    state = rounds(spoiled(0.2), spoiled(0.21))
    before = [frame.weight for frame in state.pool.frames]
    judge(spoiled(0.9), state)
    assert [frame.weight for frame in state.pool.frames] == before
    fresh = LoopState(GeneratedViews(9))
    judge(textured, fresh)
    assert fresh.reports == []


def lie(camera):
    """Another surface, upside down and in inverted colours."""
    other = textured(camera, offset=2.0, radius=1.8)
    return replace(other, color=1.0 - other.color.flip(0, 1))


@pytest.mark.parametrize("held", [SPARED, []], ids=["spared", "all train"])
def test_a_round_of_lies_is_refused_before_it_can_teach(held, caplog):
    state, keeper = LoopState(GeneratedViews(99)), Keeper()
    liar = OracleRepairer(textured, 0.02, wrong=lie, wrong_every=1)
    with caplog.at_level(logging.WARNING):
        report = Loop(CONFIG, liar, 0, state).round(7, spoiled(0.3), photos(), splats=keeper, held=photos(held))
    assert (report.clips, report.clips_refused, report.admitted, report.added) == (1, 1, 0, 0)
    assert (report.outcome, report.before) == ("refused", None)
    assert len(state.pool) == 0
    assert "round 1: clip 1 (orbit) is refused: it contradicts" in caplog.text
    judge(spoiled(0.9), state, keeper, held)  # nothing has taught: nothing is judged
    assert state.reports[-1].outcome == "refused"
    assert "restore" not in keeper.calls


def test_the_true_clips_of_a_round_are_kept():
    state, two = LoopState(GeneratedViews(99)), replace(CONFIG, frames=8)
    half = OracleRepairer(textured, 0.02, wrong=lie, wrong_every=2)
    report = Loop(two, half, 0, state).round(7, spoiled(0.3), photos())
    assert (report.clips, report.clips_refused, report.admitted, report.outcome) == (2, 1, 4, "open")
    assert {frame.provenance.clip for frame in state.pool.frames} == {1}
    assert all(frame.agreement > 0.9 for frame in state.pool.frames)


def test_clips_that_no_photo_reaches_are_taken_on_trust_at_half_weight():
    state = LoopState(GeneratedViews(99))
    render = lambda camera: replace(textured(camera), alpha=0 * textured(camera).alpha)  # noqa: E731
    report = Loop(CONFIG, OracleRepairer(textured), 0, state).round(8, render, photos())
    assert (report.clips, report.clips_unjudged, report.clips_refused) == (1, 1, 0)
    assert state.pool.frames and all(f.agreement == f.weight == 0.5 for f in state.pool.frames)


def test_rolled_back_frames_and_retired_ones_survive_a_checkpoint(tmp_path):
    state = LoopState(GeneratedViews(99))
    same = replace(CONFIG, trajectories=("interpolate",))
    for k in range(2):
        Loop(same, OracleRepairer(textured), 0, state).round(k, textured, photos(), held=photos(SPARED))
    assert len(state.retired) == 4
    torch.save(state.state_dict(), tmp_path / "loop.pt")
    resumed = LoopState(GeneratedViews(1))
    resumed.load_state_dict(torch.load(tmp_path / "loop.pt", weights_only=True))
    for each in (state, resumed):
        judge(spoiled(0.4), each)
        assert [f.provenance.round for f in each.pool.frames] == [0] * 4
    assert resumed.reports == state.reports


# -- table -----------------------------------------------------------------------------------------------------------


def printed(reports) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(round_table(reports))
    return [line for line in console.file.getvalue().splitlines() if line.strip()]


def test_the_table_shows_every_round_on_one_line_of_80_columns_and_explains_itself():
    state = rounds(spoiled(0.2), spoiled(0.2), spoiled(0.4))
    lines = printed(state.reports)
    rows = [line for line in lines if line.split()[0] in ("1", "2", "3") and ("+" in line)]
    assert len(rows) == len(state.reports)
    assert "accepted" in rows[0] and "rolled back" in rows[1]
    first = state.reports[0]
    assert f"{first.before['psnr']:.1f}>{first.after['psnr']:.1f}" in rows[0]
    assert f"{100 * first.before['novel']:.1f}>{100 * first.after['novel']:.1f}" in rows[0]
    assert "0+4/0" in rows[0] or "4+0/0" in rows[0]
    legend = " ".join(" ".join(lines[-9:]).split())
    for name in ("clips:", "views:", "splats:", "cover:", "agree:", "dB, sharp:"):
        assert name in legend
    fresh = replace(first, before=None, after=None, outcome="empty")
    assert not any("sharp" in line for line in printed([fresh]))
    widest = replace(first, round=99, step=26000, clips=12, clips_refused=10, admitted=99, replaced=12, refused=99)
    widest = replace(widest, added=20000, seconds=1234.0, outcome="rolled back")
    assert any("1234 rolled back" in line for line in printed([widest]))
    pending = replace(first, after=None, outcome="open")
    assert any(f"{first.before['psnr']:.1f}>-" in line for line in printed([pending]))


def test_a_round_in_a_sentence():
    report = rounds(spoiled(0.2), spoiled(0.2)).reports[0]
    line = round_line(replace(report, admitted=0, refused=16, added=0, outcome="empty"), "classical")
    assert "0 of 16 views kept, 0 of 1 clips refused (classical), 0 splats added" in line
    assert "no pose is safe" in round_line(replace(report, clips=0), "classical")


def test_evidence_goes_into_a_checkpoint_as_plain_numbers():
    report = rounds(textured, textured).reports[0]
    assert Evidence(**report.before) and Evidence(**report.after)
    assert all(isinstance(value, float) for value in report.before.values())
    assert report.before.keys() == asdict(BEFORE).keys()
