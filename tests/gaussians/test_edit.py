"""`splat_edits`: splats that come and go, with their moments and statistics."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from test_densify import assert_one, see, setup
from torch.nn import Parameter, ParameterDict

from genfusion_ns.gaussians import edit
from genfusion_ns.gaussians.parameters import init_gaussians


def test_split_samples_the_splats_own_gaussian_in_its_plane():
    n = 4000
    quat = torch.tensor([0.3, -0.5, 0.7, 0.2])
    params = ParameterDict(
        {
            "means": Parameter(torch.ones(n, 3)),
            "scales": Parameter(torch.tensor([0.4, 0.1, 1e-6]).log().repeat(n, 1)),
            "quats": Parameter(quat.repeat(n, 1)),
        }
    )
    optimizers = {name: torch.optim.Adam([p]) for name, p in params.items()}
    random = torch.Generator().manual_seed(0)
    edit.split_in_plane(params, optimizers, {}, torch.ones(n, dtype=torch.bool), 1.6, random)
    rotation = torch.from_numpy(Rotation.from_quat(quat[[1, 2, 3, 0]].numpy()).as_matrix()).float()
    local = (params["means"].data - 1) @ rotation
    assert local.shape == (2 * n, 3)
    torch.testing.assert_close(local.std(0), torch.tensor([0.4, 0.1, 0.0]), rtol=0.05, atol=1e-6)
    torch.testing.assert_close(local.mean(0), torch.zeros(3), rtol=0, atol=0.02)
    assert abs(float(torch.corrcoef(local[:, :2].T)[0, 1])) < 0.05
    # siblings are drawn independently
    assert abs(float(torch.corrcoef(torch.stack([local[:n, 0], local[n:, 0]]))[0, 1])) < 0.05


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_rotate_against_scipy(seed):
    gen = torch.Generator().manual_seed(seed)
    quats, vectors = torch.randn(6, 4, generator=gen, dtype=torch.float64), torch.randn(6, 3, generator=gen).double()
    expected = Rotation.from_quat(quats[:, [1, 2, 3, 0]].numpy()).apply(vectors.numpy())
    torch.testing.assert_close(edit.rotate(quats, vectors), torch.from_numpy(expected))


@pytest.mark.parametrize("plain_dict", [False, True])
def test_appended_splats_start_without_history(plain_dict):
    params, optimizers, state = setup(plain_dict=plain_dict)
    see(state, {3: 0.5})
    before = {name: p.detach().clone() for name, p in params.items()}
    moments = {name: optimizers[name].state[params[name]]["exp_avg"].clone() for name in params}
    new = init_gaussians(torch.ones(5, 3) + torch.rand(5, 3), torch.zeros(5, 3), 1)
    edit.append_splats(params, optimizers, state, new)
    assert_one(params, optimizers, state, 25)
    for name, p in params.items():
        assert torch.equal(p.data, torch.cat([before[name], new[name]]))
        moment = optimizers[name].state[p]["exp_avg"]
        assert torch.equal(moment[:20], moments[name])
        assert moment[20:].abs().max() == 0
        p.grad = torch.ones_like(p)
        optimizers[name].step()
        assert p.data[20:].ne(new[name]).all()
    assert state["grad"][3] > 0
    assert state["count"][20:].abs().max() == 0


def test_appending_before_the_first_step_and_what_does_not_fit():
    params = ParameterDict(
        {name: Parameter(v) for name, v in init_gaussians(torch.rand(4, 3), torch.rand(4, 3), 1).items()}
    )
    optimizers = {name: torch.optim.Adam([p]) for name, p in params.items()}
    edit.append_splats(params, optimizers, {}, init_gaussians(torch.rand(2, 3), torch.rand(2, 3), 1))
    assert len(params["means"]) == 6
    assert optimizers["means"].param_groups[0]["params"][0] is params["means"]
    with pytest.raises(ValueError, match="expected splats like"):
        edit.append_splats(params, optimizers, {}, init_gaussians(torch.rand(2, 3), torch.rand(2, 3), 2))
