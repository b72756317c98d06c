"""`densify_sparse`: enough views first, statistics that last, and mercy for what only generated views see."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_densify import assert_one, setup

from genfusion_ns.gaussians.densify import Densifier, GradientDensifier
from genfusion_ns.gaussians.densify_sparse import SparsityAwareDensifier, only_generated

EAGER = SparsityAwareDensifier(start=0, stop=10_000, every=100, reset_every=0, visible_base=5, visible_cap=5)


def fresh(n: int = 20, **kwargs):
    params, optimizers, _ = setup(n, **kwargs)
    return params, optimizers, EAGER.initialize_state(n)


def see(state, rows, gradient: float = 3e-4, views: int = 1, generated: bool = False, densifier=EAGER, weight=1.0):
    """Let the splats in `rows` be seen in `views` views, with a gradient in normalised screen units."""
    n = len(state["grad"])
    grad, radii = torch.zeros(n, 2), torch.zeros(n, dtype=torch.int32)
    grad[rows, 0], radii[rows] = gradient / 50, 3
    for _ in range(views):
        densifier.observe(state, grad, radii, 100, 60, weight, generated)


# -- section 9 of the reference: rules that are kept ------------------------------------------------------------------


def test_minimum_counts_are_the_official_ones():
    densifier = SparsityAwareDensifier()
    assert [densifier.min_visible(k) for k in (1100, 2000, 5000, 7000)] == [61, 70, 100, 100]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GradientDensifier, SparsityAwareDensifier])
def test_events_of_the_official_sparse_run(kind):
    densifier = kind(start=100, stop=5000, every=500, reset_every=3100)
    events, resets = [], []
    for k in range(50, 7001, 50):
        params, optimizers, _ = setup(n=2)
        state = densifier.initialize_state(2)
        see(state, [0], views=100, densifier=densifier)
        report = densifier.step(params, optimizers, state, k, 1e6, 0)
        events += [k] if report.cloned else []
        resets += [k] if report.reset else []
    assert events == list(range(500, 4501, 500))
    assert resets == [3100]


def test_ours_differs_no_event_in_the_last_part_of_the_official_masked_run():
    # the official one goes on to step 7000 and saves splats that were just split
    densifier = SparsityAwareDensifier(start=1000, stop=15000, every=100, reset_every=9000)
    run = densifier.scaled_to(7000, reference=7000)
    assert [k for k in range(7001) if run._is_event(k)] == list(range(1100, 5501, 100))
    assert run.min_visible(1100) == 61


def test_only_what_grew_or_was_seen_very_often_starts_anew():
    params, optimizers, state = fresh()
    see(state, [0], views=5)  # grows
    see(state, [1], views=4)  # too few views
    see(state, [2], 1e-5, views=5)  # too small a gradient
    see(state, [3], 1e-5, views=501)  # old statistics
    see(state, [4], 1e-5, views=500)
    report = EAGER.step(params, optimizers, state, 100, 1e6, 0)
    assert (report.cloned, report.split, report.total) == (1, 0, 21)
    assert state["count"].tolist() == [0, 4, 5, 0, 500, *[0] * 16]
    torch.testing.assert_close(state["grad"][1], torch.tensor(4 * 3e-4))
    assert_one(params, optimizers, state, 21)
    see(state, [1], views=1)
    assert EAGER.step(params, optimizers, state, 200, 1e6, 0).cloned == 1


# -- ours ------------------------------------------------------------------------------------------------------------


def test_children_start_with_new_statistics_but_keep_who_saw_them():
    params, optimizers, state = fresh()
    with torch.no_grad():
        params["scales"][7, :2] = math.log(0.5)
    see(state, [3, 7], views=5)
    see(state, [3], views=2, generated=True)
    report = EAGER.step(params, optimizers, state, 100, extent=1.0, seed=0)
    clones = {(3, 20), (7, 21)} if report.cloned else set()
    assert (report.cloned + report.split, report.total) == (2, 22)
    assert clones or report.split == 2
    for child in (20, 21):
        assert state["count"][child] == state["grad"][child] == 0
        assert state["captured"][child] == 5
    assert sorted(state["generated"][20:].tolist()) == [0, 2]


def test_generated_views_of_small_weight_count_less_towards_the_minimum():
    params, optimizers, state = fresh()
    see(state, [0], views=9, generated=True, weight=0.5)
    assert EAGER.step(params, optimizers, state, 100, 1e6, 0).cloned == 0
    see(state, [0], views=1, generated=True, weight=0.5)
    assert EAGER.step(params, optimizers, state, 200, 1e6, 0).cloned == 1


def test_who_saw_a_splat():
    state = EAGER.initialize_state(5)
    see(state, [0, 1], generated=True)
    see(state, [1, 2])
    # within the frame but without any gradient: hidden behind others
    EAGER.observe(state, torch.zeros(5, 2), torch.ones(5), 100, 60)
    EAGER.observe(state, torch.full((5, 2), math.nan), torch.ones(5), 100, 60)
    assert state["captured"].tolist() == [0, 1, 1, 0, 0]
    assert state["generated"].tolist() == [1, 1, 0, 0, 0]
    assert only_generated(state).tolist() == [True, False, False, False, False]


def test_pruning_spares_faint_splats_that_only_generated_views_see():
    params, optimizers, state = fresh()
    logit = lambda p: math.log(p / (1 - p))  # noqa: E731
    with torch.no_grad():
        params["opacities"][:4] = logit(0.02)
        params["opacities"][4:6] = logit(0.004)
        params["means"][6, 0] = math.nan
    see(state, [0, 4, 6], 1e-6, generated=True)
    see(state, [1, 2], 1e-6)
    see(state, [2], 1e-6, generated=True)
    kept = params["means"].detach()[[0]].clone()
    report = EAGER.step(params, optimizers, state, 100, 1.0, 0)
    assert report.pruned == 6  # 1, 2, 3 (nobody saw it), 4, 5 and the broken 6
    assert torch.equal(params["means"].detach()[:1], kept)
    assert_one(params, optimizers, state, 14)


def test_a_reset_spares_them_too_and_leaves_their_moments():
    params, optimizers, state = fresh(opacity=0.6)
    see(state, [0], 1e-6, generated=True)
    before = params["opacities"].detach().clone()
    densifier = replace(EAGER, reset_every=350)
    assert densifier.step(params, optimizers, state, 350, 1.0, 0).reset
    opacity = torch.sigmoid(params["opacities"].detach())
    assert torch.equal(params["opacities"].detach()[0], before[0])
    assert float(opacity[1:].max()) == pytest.approx(0.01, rel=1e-4)
    moments = optimizers["opacities"].state[params["opacities"]]["exp_avg"]
    assert moments[0].abs().min() > 0
    assert moments[1:].abs().max() == 0


def test_scaled_to_a_short_run_asks_for_fewer_views():
    short = SparsityAwareDensifier(start=500, stop=5000).scaled_to(700, reference=7000)
    assert (short.start, short.stop, short.visible_base, short.visible_cap, short.forget_after) == (50, 500, 5, 10, 50)
    assert [short.min_visible(k) for k in (110, 700)] == [6, 10]
    assert SparsityAwareDensifier().scaled_to(30_000) == SparsityAwareDensifier()


def test_it_is_a_densifier_whose_state_survives_a_checkpoint(tmp_path):
    densifier: Densifier = EAGER
    state = densifier.initialize_state(4)
    see(state, [1], generated=True)
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(torch.equal(loaded[name], state[name]) for name in state)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_any_history_stays_consistent_and_bounded(seed, n):
    gen = torch.Generator().manual_seed(seed)
    params, optimizers, state = fresh(n, seed=seed)
    densifier = replace(EAGER, every=1, reset_every=3, pause_after_reset=1, visible_base=1, max_gaussians=40)
    for k in range(1, 8):
        m = len(params["means"])
        radii, generated = torch.randint(0, 3, (m,), generator=gen), bool(torch.rand(1, generator=gen) < 0.5)
        densifier.observe(state, torch.randn(m, 2, generator=gen) * 1e-5, radii, 100, 60, 1.0, generated)
        total = densifier.step(params, optimizers, state, k, float(torch.rand(1, generator=gen) * 100), seed).total
        assert 1 <= total <= max(40, n)
        assert_one(params, optimizers, state, total)
        for name, p in params.items():
            p.grad = torch.randn(p.shape, generator=gen)
            optimizers[name].step()
            assert p.isfinite().all()
