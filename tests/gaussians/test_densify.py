"""`densify`: what grows, what goes, and that parameters, Adam's moments and statistics stay one."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Parameter, ParameterDict

from genfusion_ns.gaussians.densify import STATISTICS, DensifyReport, GradientDensifier
from genfusion_ns.gaussians.parameters import init_gaussians

EAGER = GradientDensifier(start=0, stop=10_000, every=100, reset_every=0)


def setup(n: int = 20, seed: int = 0, opacity: float = 0.5, plain_dict: bool = False):
    """Splats with one Adam step behind them, so that every moment is non-zero."""
    gen = torch.Generator().manual_seed(seed)
    raw = init_gaussians(torch.randn(n, 3, generator=gen), torch.rand(n, 3, generator=gen), 1, opacity=opacity)
    params = {name: Parameter(values) for name, values in raw.items()}
    params = params if plain_dict else ParameterDict(params)
    optimizers = {name: torch.optim.Adam([p], lr=1e-3, eps=1e-15) for name, p in params.items()}
    for name, p in params.items():
        p.grad = torch.rand(p.shape, generator=gen) + 0.1
        optimizers[name].step()
        optimizers[name].zero_grad()
    return params, optimizers, EAGER.initialize_state(n)


def assert_one(params, optimizers, state, n: int):
    """Every tensor has n rows, and each optimiser holds exactly its parameter and that parameter's state."""
    for name, p in params.items():
        assert len(p) == n
        assert p.requires_grad
        assert isinstance(p, Parameter)
        (group,) = optimizers[name].param_groups
        assert len(group["params"]) == 1
        assert group["params"][0] is p
        assert list(optimizers[name].state) == [p]
        assert optimizers[name].state[p]["exp_avg"].shape == p.shape
        assert optimizers[name].state[p]["exp_avg_sq"].shape == p.shape
    assert all(len(values) == n for values in state.values())


def see(state, gradients: dict[int, float], densifier=EAGER, views: int = 1):
    """Let every splat be seen, with the given gradient norms in normalised screen units."""
    n = len(state["grad"])
    grad = torch.zeros(n, 2)
    for i, norm in gradients.items():
        grad[i, 0] = norm / 50  # width 100: half of it is the unit
    for _ in range(views):
        densifier.observe(state, grad, torch.full((n,), 3), 100, 60)


# -- observing -------------------------------------------------------------------------------------------------------


def test_observe_against_a_loop():
    gen = torch.Generator().manual_seed(0)
    state = EAGER.initialize_state(30)
    total, count, largest = [0.0] * 30, [0.0] * 30, [0.0] * 30
    for view, weight in enumerate([1.0, 0.5, 1.0]):
        grad = torch.randn(30, 2, generator=gen)
        radii = torch.randint(0, 4, (30,), generator=gen, dtype=torch.int32)
        EAGER.observe(state, grad, radii, 64, 48 + view, weight)
        for i in range(30):
            if radii[i] > 0:
                total[i] += weight * math.hypot(float(grad[i, 0]) * 32, float(grad[i, 1]) * (48 + view) / 2)
                count[i] += weight
                largest[i] = max(largest[i], int(radii[i]) / 64)
    torch.testing.assert_close(state["grad"], torch.tensor(total))
    torch.testing.assert_close(state["count"], torch.tensor(count))
    torch.testing.assert_close(state["max_radius"], torch.tensor(largest))


def test_gradients_that_are_not_finite_count_as_unseen():
    state = EAGER.initialize_state(3)
    EAGER.observe(state, torch.tensor([[math.nan, 0], [math.inf, 0], [1, 0]]), torch.ones(3), 2, 2)
    assert state["grad"].tolist() == [0, 0, 1]
    assert state["count"].tolist() == [0, 0, 1]


# -- growing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain_dict", [False, True])
def test_small_are_cloned_and_large_are_split(plain_dict):
    params, optimizers, state = setup(plain_dict=plain_dict)
    with torch.no_grad():
        params["scales"][:, :2] = math.log(0.005)
        params["scales"][4, 1] = math.log(0.05)
    before = {name: p.detach().clone() for name, p in params.items()}
    moments = {name: optimizers[name].state[params[name]]["exp_avg"].clone() for name in params}
    see(state, {3: 3e-4, 4: 3e-4, 5: 1e-4})
    report = EAGER.step(params, optimizers, state, 100, extent=1.0, seed=7)
    assert report == DensifyReport(cloned=1, split=1, pruned=0, reset=False, total=22)
    assert report.changed
    assert_one(params, optimizers, state, 22)
    untouched = [i for i in range(20) if i != 4]
    for name, p in params.items():
        torch.testing.assert_close(p.data[untouched], before[name][untouched])
        torch.testing.assert_close(p.data[20], before[name][3])
        moment = optimizers[name].state[p]["exp_avg"]
        torch.testing.assert_close(moment[untouched], moments[name][untouched])
        assert moment[[4, 20, 21]].abs().max() == 0
    for child in (4, 21):
        torch.testing.assert_close(params["scales"].data[child, :2], before["scales"][4, :2] - math.log(1.6))
        assert params["scales"].data[child, 2] == before["scales"][4, 2]
        for name in ("quats", "features_dc", "features_rest", "opacities"):
            torch.testing.assert_close(params[name].data[child], before[name][4])
    assert all(state[name].abs().max() == 0 for name in STATISTICS)
    assert params["means"].data[4].ne(params["means"].data[21]).any()


def test_randomness_is_of_seed_and_step_only():
    def grown(seed: int, k: int, noise: int):
        torch.manual_seed(noise)
        params, optimizers, state = setup()
        see(state, {i: 1e-3 for i in range(20)})
        EAGER.step(params, optimizers, state, k, extent=0.1, seed=seed)
        return params["means"].detach().clone()

    assert torch.equal(grown(1, 100, 0), grown(1, 100, 1))
    assert not torch.equal(grown(1, 100, 0), grown(2, 100, 0))
    assert not torch.equal(grown(1, 100, 0), grown(1, 200, 0))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    params, optimizers, state = setup()
    see(state, {0: 1.0})
    EAGER.step(params, optimizers, state, 100, 0.1, 0)
    assert torch.equal(torch.rand(1), expected)


def test_growth_stops_at_the_cap_strongest_first():
    params, optimizers, state = setup()
    capped = replace(EAGER, max_gaussians=23)
    see(state, {i: 1e-3 * (i + 1) for i in range(20)})
    means = params["means"].detach().clone()
    report = capped.step(params, optimizers, state, 100, extent=1e6, seed=0)
    assert (report.cloned, report.total) == (3, 23)
    torch.testing.assert_close(params["means"].data[20:], means[17:])
    see(state, {i: 1.0 for i in range(23)})
    assert capped.step(params, optimizers, state, 200, extent=1e6, seed=0).total == 23


def test_mean_gradient_decides_not_the_sum():
    params, optimizers, state = setup()
    see(state, {0: 1.5e-4}, views=10)
    assert EAGER.step(params, optimizers, state, 100, 1.0, 0) == DensifyReport(total=20)


def test_an_event_forgets_its_own_statistics_only():
    """A model may keep more per splat in the same dictionary, so that it is edited along."""
    params, optimizers, state = setup()
    state["origin"] = torch.arange(20.0)
    see(state, {0: 1.0})
    assert EAGER.step(params, optimizers, state, 100, 1e6, 0).cloned == 1
    assert not state["grad"].any() and not state["count"].any()
    assert state["captured"].tolist() == [1.0, *[0.0] * 19, 1.0]
    assert state["origin"].tolist() == [*map(float, range(20)), 0.0]


def test_unseen_splats_do_not_grow():
    params, optimizers, state = setup()
    EAGER.observe(state, torch.ones(20, 2), torch.zeros(20), 100, 100)
    assert EAGER.step(params, optimizers, state, 100, 1.0, 0).total == 20


# -- pruning ---------------------------------------------------------------------------------------------------------


def test_faint_and_broken_go_and_large_only_after_a_reset():
    params, optimizers, state = setup()
    with torch.no_grad():
        params["opacities"][2] = -10
        params["means"][5, 1] = math.nan
        params["features_rest"][6, 0, 0] = math.inf
        params["scales"][9, 0] = math.log(0.2)
        params["scales"][10, 2] = math.log(5.0)  # the thin axis is no size
    left = params["means"].detach().clone()
    densifier = replace(EAGER, reset_every=150, pause_after_reset=20)
    with torch.no_grad():
        params["scales"][:9, :2], params["scales"][10:, :2] = -9, -9
    assert densifier.step(params, optimizers, state, 100, 1.0, 0).pruned == 3
    assert densifier.step(params, optimizers, state, 200, 1.0, 0).pruned == 1
    assert_one(params, optimizers, state, 16)
    kept = [i for i in range(20) if i not in (2, 5, 6, 9)]
    torch.testing.assert_close(params["means"].data, left[kept])


def test_a_broken_splat_does_not_grow_into_two():
    params, optimizers, state = setup()
    with torch.no_grad():
        params["means"][0, 0] = math.nan
    see(state, {0: 1.0})
    report = EAGER.step(params, optimizers, state, 100, 1e6, 0)
    assert report.total == 19
    assert params["means"].isfinite().all()


def test_never_all(caplog):
    params, optimizers, state = setup(opacity=0.01)
    with torch.no_grad():
        params["opacities"][7] = -3.5
        params["means"][3, 0] = math.nan
    best = params["means"].detach()[7].clone()
    report = EAGER.step(params, optimizers, state, 100, 1.0, 0)
    assert report.total == 16
    assert params["means"].isfinite().all()
    assert (params["means"].data == best).all(dim=1).any()
    assert "all 20 splats were to be pruned" in caplog.text


def test_never_none_even_if_all_are_broken():
    params, optimizers, state = setup(n=3)
    with torch.no_grad():
        params["means"][:] = math.nan
        optimizers["means"].state[params["means"]]["exp_avg"][:] = math.nan
    assert EAGER.step(params, optimizers, state, 100, 1.0, 0).total == 1
    assert_one(params, optimizers, state, 1)
    assert all(p.isfinite().all() for p in params.values())
    assert all(o.state[params[name]]["exp_avg"].isfinite().all() for name, o in optimizers.items())


# -- events ----------------------------------------------------------------------------------------------------------


def test_reset_pulls_opacities_down_and_forgets_their_moments():
    params, optimizers, state = setup(opacity=0.6)
    with torch.no_grad():
        params["opacities"][0] = -8
    report = replace(EAGER, reset_every=300).step(params, optimizers, state, 300, 1.0, 0)
    assert report.reset
    assert_one(params, optimizers, state, len(params["means"]))
    opacity = torch.sigmoid(params["opacities"].detach())
    assert float(opacity.max()) == pytest.approx(0.01, rel=1e-4)
    assert optimizers["opacities"].state[params["opacities"]]["exp_avg"].abs().max() == 0
    assert optimizers["means"].state[params["means"]]["exp_avg"].abs().min() > 0


def test_an_opaque_splat_can_still_fade_after_any_step():
    params, optimizers, state = setup(opacity=0.5)
    with torch.no_grad():
        params["opacities"][0] = 18.0  # what a long run leaves: the sigmoid's slope is 0 in float32
    before = torch.sigmoid(params["opacities"][1:].detach())
    report = EAGER.step(params, optimizers, state, 101, 1.0, 0)
    assert report == DensifyReport(0, 0, 0, False, len(params["means"]))  # no event
    opacity = torch.sigmoid(params["opacities"])
    assert torch.equal(opacity[1:].detach(), before) and float(opacity[0].detach()) == pytest.approx(0.99)
    (slope,) = torch.autograd.grad(opacity.sum(), params["opacities"])
    assert float(slope[0]) > 0.009


def test_events_and_pauses():
    densifier = GradientDensifier(start=500, stop=2000, every=100, reset_every=700, pause_after_reset=250)
    acted = []
    for k in range(1, 2500):
        params, optimizers, state = None, None, None
        if k % 50 == 0:
            params, optimizers, state = setup(n=4)
            see(state, {0: 1.0})
            report = densifier.step(params, optimizers, state, k, 1e6, 0)
            acted += [k] if report.cloned else []
            assert report.reset == (k in (700, 1400))
    assert acted == [600, 1000, 1100, 1200, 1300, 1700, 1800, 1900]


def test_no_reset_shortly_before_the_end_of_growth():
    densifier = GradientDensifier(start=0, stop=800, every=100, reset_every=300, pause_after_reset=250)
    assert [densifier.step(*setup(n=2), k, 1.0, 0).reset for k in (300, 600)] == [True, False]


def test_scaled_to_a_run_leaves_a_tail_to_polish():
    scaled = GradientDensifier().scaled_to(3000)
    assert (scaled.start, scaled.stop, scaled.every, scaled.reset_every) == (50, 1500, 100, 300)
    official_masked = GradientDensifier(start=1000, stop=15000).scaled_to(7000, reference=7000, tail=0.1)
    assert official_masked.stop == 6300
    assert GradientDensifier().scaled_to(30_000) == GradientDensifier()


def test_state_survives_a_checkpoint(tmp_path):
    params, optimizers, state = setup()
    see(state, {1: 0.5})
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_any_history_stays_consistent_and_trainable(seed, n):
    gen = torch.Generator().manual_seed(seed)
    params, optimizers, state = setup(n, seed)
    densifier = GradientDensifier(start=0, stop=10**6, every=1, reset_every=3, pause_after_reset=1, max_gaussians=40)
    for k in range(1, 8):
        m = len(params["means"])
        radii = torch.randint(0, 3, (m,), generator=gen)
        densifier.observe(state, torch.randn(m, 2, generator=gen) * 1e-5, radii, 100, 60)
        total = densifier.step(params, optimizers, state, k, float(torch.rand(1, generator=gen) * 100), seed).total
        assert 1 <= total <= max(40, n)
        assert_one(params, optimizers, state, total)
        for name, p in params.items():
            p.grad = torch.randn(p.shape, generator=gen)
            optimizers[name].step()
            assert p.isfinite().all()
