"""`loop.accept`: what held-out photos say about a round, what follows from it, and what is refused before."""

import io
import logging
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loop_scene import aimed, textured
from oracle import OracleRepairer
from rich.console import Console

from genfusion_ns.loop import accept
from genfusion_ns.loop.captured import CapturedViews
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.pool import GeneratedViews
from genfusion_ns.loop.repair import IdentityRepairer
from genfusion_ns.loop.report import round_line, round_table
from genfusion_ns.loop.round import run_round
from genfusion_ns.loop.state import LoopState

CAPTURED = [aimed((3.0, y, 1.0)).resized(96, 72) for y in (-0.4, 0.0, 0.4)]
CONFIG = LoopConfig(frames=4, clip_length=4, trajectories=("orbit",), tolerance=0.3)
ALIKE = replace(CONFIG)
"""All frames enter, whatever they tell."""


def photos(cameras=CAPTURED) -> CapturedViews:
    return CapturedViews(cameras, lambda i: textured(cameras[i]).color)


def spoiled(amount: float):
    """Splats whose colours are off by so much."""
    return lambda camera: replace(textured(camera), color=(1 - amount) * textured(camera).color + amount * 0.5)


# -- pure rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "outcome"),
    [
        (25, "accepted"),
        (20, "accepted"),
        (19.71, "accepted"),
        (19.6, "lowered"),
        (19.41, "lowered"),
        (19, "rolled back"),
    ],
)
def test_judgement(after, outcome):
    assert accept.judge(20.0, after, 0.3) == outcome


@given(st.floats(0, 60), st.floats(0, 60), st.floats(0, 5))
def test_more_evidence_is_never_judged_worse(before, after, tolerance):
    order = ["rolled back", "lowered", "accepted"]
    better = accept.judge(before, after + 0.5, tolerance)
    assert order.index(better) >= order.index(accept.judge(before, after, tolerance))
    assert accept.judge(before, before, tolerance) == "accepted"


def test_trust_is_lost_quicker_than_it_is_won():
    assert accept.trust([]) == accept.trust(["accepted"] * 5) == accept.trust(["open"]) == 1
    assert accept.trust(["lowered"]) == 0.5
    assert accept.trust(["rolled back"]) == 0.25
    assert accept.trust(["rolled back", "rolled back", "accepted"]) == 0.125
    assert accept.trust(["lowered", "accepted", "accepted"]) == 1


def test_who_is_held_out():
    assert accept.held_out(11, 12) == accept.held_out(100, 0) == accept.held_out(0, 12) == []
    assert accept.held_out(12, 12) == [6]
    assert accept.held_out(24, 12) == [8, 16]
    assert accept.held_out(2, 1) == [0, 1]


# -- evidence --------------------------------------------------------------------------------------------------------


def test_evidence_at_held_out_photos_is_their_psnr():
    held = photos([aimed((2.9, 0.2, 1.1)).resized(96, 72)])
    found = accept.at_views(spoiled(0.2), held)
    error = 0.2 * (textured(held.cameras[0]).color - 0.5)
    assert found == pytest.approx(float(-10 * torch.log10(error.square().mean())), abs=1e-3)
    big = CapturedViews([held.cameras[0].resized(640, 480)], lambda i: textured(held.cameras[0]).color)
    assert accept.at_views(textured, big) > 30


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


def rounds(*splats, keeper=None, held=None):
    """One round per stage of the splats, then the end of the loop with the last stage."""
    state = LoopState(GeneratedViews(99))
    held = held or photos([aimed((2.9, 0.2, 1.1)).resized(96, 72)])
    for k, render in enumerate(splats[:-1]):
        run_round(render, photos(), state, ALIKE, IdentityRepairer(), k, 0, splats=keeper, held=held)
    accept.judge_last_round(splats[-1], held, state, ALIKE, keeper)
    return state


def test_good_rounds_are_accepted():
    state = rounds(spoiled(0.4), spoiled(0.3), spoiled(0.2), keeper=(keeper := Keeper()))
    assert [report.outcome for report in state.reports] == ["accepted", "accepted"]
    assert state.reports[0].before < state.reports[0].after == state.reports[1].before < state.reports[1].after
    assert keeper.calls == ["keep", "keep"]
    assert state.retired == []


def test_a_somewhat_bad_round_loses_weight():
    state = rounds(spoiled(0.2), spoiled(0.21), keeper=(keeper := Keeper()))
    assert state.reports[0].outcome == "lowered"
    fresh = rounds(spoiled(0.2), spoiled(0.2))
    weights = [(a.weight, b.weight) for a, b in zip(state.pool.frames, fresh.pool.frames, strict=True)]
    assert all(a == pytest.approx(0.5 * b) for a, b in weights)
    assert keeper.calls == ["keep"]


def test_a_bad_round_is_taken_back_and_the_next_one_trusted_less(caplog):
    with caplog.at_level(logging.WARNING):
        state = rounds(spoiled(0.2), spoiled(0.2), spoiled(0.4), spoiled(0.2), keeper=(keeper := Keeper()))
    assert [report.outcome for report in state.reports] == ["accepted", "rolled back", "accepted"]
    assert "round 2 of step 1 is rolled back: held-out photos fell from" in caplog.text
    # judged before anything is remembered: the good splats are still there to go back to
    assert keeper.calls == ["keep", "keep", "restore", "keep"]
    assert state.reports[2].before == state.reports[1].before
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
    accept.judge_last_round(spoiled(0.9), photos(), state, CONFIG)
    assert [frame.weight for frame in state.pool.frames] == before
    assert accept.judge_last_round(textured, photos(), LoopState(GeneratedViews(9)), CONFIG) > 20


def test_without_held_out_photos_nothing_is_taken_back():
    state, keeper = LoopState(GeneratedViews(99)), Keeper()
    for k, render in enumerate((spoiled(0.2), spoiled(0.6))):
        run_round(render, photos(), state, CONFIG, OracleRepairer(textured), k, 0, splats=keeper, held=photos([]))
    assert keeper.calls == []
    assert [(report.outcome, report.before, report.after) for report in state.reports] == [("accepted", None, None)] * 2
    assert {report.evidence for report in state.reports} == {"photos warped into the views"}


def lie(camera):
    """Another surface, upside down and in inverted colours."""
    other = textured(camera, offset=2.0, radius=1.8)
    return replace(other, color=1.0 - other.color.flip(0, 1))


@pytest.mark.parametrize("held", [None, [aimed((2.9, 0.2, 1.1)).resized(96, 72)]])
def test_a_round_of_lies_is_refused_before_it_can_teach(held, caplog):
    state, keeper = LoopState(GeneratedViews(99)), Keeper()
    liar = OracleRepairer(textured, 0.02, wrong=lie, wrong_every=1)
    with caplog.at_level(logging.WARNING):
        report = run_round(spoiled(0.3), photos(), state, CONFIG, liar, 7, 0, splats=keeper, held=held and photos(held))
    assert (report.outcome, report.clips, report.clips_refused, report.admitted, report.added) == (
        "refused",
        1,
        1,
        0,
        0,
    )
    assert report.evidence == "photos warped into the views"
    assert len(state.pool) == 0
    assert "round 1: clip 1 (orbit) is refused: it contradicts" in caplog.text
    if held:  # nothing has taught: nothing is judged
        accept.judge_last_round(spoiled(0.9), photos(held), state, CONFIG, keeper)
        assert state.reports[-1].outcome == "refused"
        assert "restore" not in keeper.calls


def test_the_true_clips_of_a_round_are_kept():
    state, two = LoopState(GeneratedViews(99)), replace(CONFIG, frames=8, overlap=2)
    half = OracleRepairer(textured, 0.02, wrong=lie, wrong_every=2)
    report = run_round(spoiled(0.3), photos(), state, two, half, 7, 0)
    assert (report.clips, report.clips_refused, report.outcome) == (3, 2, "accepted")
    assert {frame.provenance.clip for frame in state.pool.frames} == {1}
    # frames that a refused clip shows too count as much as the others
    assert report.admitted == 4
    assert all(frame.agreement > 0.9 for frame in state.pool.frames)


def test_clips_that_no_photo_reaches_are_taken_on_trust_and_said_to_be():
    away = [aimed((3.0, y, 1.0), (9.0, y, 1.0)).resized(96, 72) for y in (-0.4, 0.4)]
    state = LoopState(GeneratedViews(99))
    between = replace(CONFIG, trajectories=("interpolate",), frames=3)
    render = lambda camera: replace(textured(camera), alpha=0 * textured(camera).alpha)  # noqa: E731
    report = run_round(render, photos(away), state, between, OracleRepairer(textured), 7, 0)
    assert report.clips_unjudged == 0  # the photos' own places
    orbit = run_round(render, photos(), state, CONFIG, OracleRepairer(textured), 8, 0)
    assert (orbit.clips, orbit.clips_unjudged, orbit.evidence) == (1, 1, "none")
    assert all(f.agreement == 0.5 for f in state.pool.frames if f.provenance.trajectory == "orbit")


def test_rolled_back_frames_and_retired_ones_survive_a_checkpoint(tmp_path):
    state = LoopState(GeneratedViews(99))
    held = photos([aimed((2.9, 0.2, 1.1)).resized(96, 72)])
    same = replace(ALIKE, trajectories=("interpolate",))
    for k in range(2):
        run_round(textured, photos(), state, same, OracleRepairer(textured), k, 0, held=held)
    assert len(state.retired) == 4
    torch.save(state.state_dict(), tmp_path / "loop.pt")
    resumed = LoopState(GeneratedViews(1))
    resumed.load_state_dict(torch.load(tmp_path / "loop.pt", weights_only=True))
    for each in (state, resumed):
        accept.judge_last_round(spoiled(0.4), held, each, CONFIG)
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
    assert f"{first.before:.2f}>{first.after:.2f}" in rows[0]
    assert "0+4/0" in rows[0] or "4+0/0" in rows[0]
    legend = " ".join(lines[-8:])
    for name in ("clips:", "views:", "splats:", "cover:", "agree:", "held out:"):
        assert name in legend
    fresh = replace(first, before=None, after=None, outcome="open")
    assert not any("held out" in line for line in printed([fresh]))
    widest = replace(first, round=99, step=26000, clips=12, clips_refused=10, admitted=99, replaced=12, refused=99)
    widest = replace(widest, added=20000, seconds=1234.0, outcome="rolled back")
    assert any("1234 rolled back" in line for line in printed([widest]))


def test_a_round_in_a_sentence():
    report = rounds(spoiled(0.2), spoiled(0.2)).reports[0]
    line = round_line(replace(report, admitted=0, refused=16, added=0, outcome="empty"), "classical")
    assert "0 of 16 views kept, 0 of 1 clips refused (classical), 0 splats added" in line
    assert "no view needs repair" in round_line(replace(report, clips=0), "classical")
