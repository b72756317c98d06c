"""`loop.keeper`: training goes on from appended splats, and comes back to remembered ones."""

import torch
from torch.nn import Parameter, ParameterDict

from genfusion_ns.gaussians.densify_sparse import SparsityAwareDensifier
from genfusion_ns.gaussians.keeper import TrainedSplats
from genfusion_ns.gaussians.parameters import init_gaussians


def training(n: int = 6):
    gen = torch.Generator().manual_seed(0)
    raw = init_gaussians(torch.randn(n, 3, generator=gen), torch.rand(n, 3, generator=gen), 1)
    params = ParameterDict({name: Parameter(values) for name, values in raw.items()})
    optimizers = {name: torch.optim.Adam([p], lr=1e-2) for name, p in params.items()}
    return params, optimizers, SparsityAwareDensifier().initialize_state(n)


def train(params, optimizers, state, steps: int):
    for _ in range(steps):
        for name, p in params.items():
            p.grad = p.detach().cos()
            optimizers[name].step()
        state["grad"] += 1


def test_after_going_back_training_goes_on_as_if_nothing_had_happened(tmp_path):
    params, optimizers, state = training()
    kept = {}
    keeper = TrainedSplats(params, optimizers, lambda: state, 1, 10, kept)
    keeper.restore()  # nothing remembered: nothing happens
    train(params, optimizers, state, 3)
    keeper.keep()
    torch.save(kept, tmp_path / "kept.pt")
    train(params, optimizers, state, 2)
    expected = {name: p.detach().clone() for name, p in params.items()}
    keeper.append(init_gaussians(torch.zeros(2, 3), torch.zeros(2, 3), 1))
    train(params, optimizers, state, 4)
    assert keeper.room() == 2
    kept.clear()
    kept.update(torch.load(tmp_path / "kept.pt", weights_only=True))
    for _ in range(2):  # what is remembered stays as it is
        keeper.restore()
        assert keeper.room() == 4
        train(params, optimizers, state, 2)
        for name, p in params.items():
            assert torch.equal(p, expected[name])
            assert optimizers[name].param_groups[0]["params"] == [p]
            assert list(optimizers[name].state) == [p]
        assert state["grad"].tolist() == [5] * 6


def test_splats_remembered_before_the_first_step_have_no_moments():
    params, optimizers, state = training()
    keeper = TrainedSplats(params, optimizers, lambda: state, 1, 10, {})
    keeper.keep()
    before = params["means"].detach().clone()
    train(params, optimizers, state, 1)
    keeper.restore()
    assert torch.equal(params["means"], before)
    assert len(optimizers["means"].state) == 0
