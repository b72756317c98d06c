"""The make-believe device itself: right values, refusals where CUDA refuses, waits where CUDA waits."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from simulated_cuda import DEVICE, LEDGER, MixedDevices, SimTensor, simulated_cuda
from torch import nn


def made(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


def test_torch_says_there_is_a_device_only_within():
    assert not torch.cuda.is_available()
    with simulated_cuda():
        assert torch.cuda.is_available() and torch.cuda.device_count() == 1
        assert torch.zeros(2, device="cuda").device == DEVICE
        assert torch.zeros(2).device.type == "cpu"
    assert not torch.cuda.is_available()
    assert type(torch.zeros(2)) is torch.Tensor


MADE_THERE = [
    lambda x: torch.zeros(2, device="cuda"),
    lambda x: torch.tensor([1.0], device="cuda:0"),
    lambda x: torch.as_tensor([1.0], device=0),
    lambda x: torch.zeros_like(x),
    lambda x: torch.full_like(x, 2.0),
    lambda x: x.new_zeros(3),
    lambda x: x.new_tensor([1.0]),
    lambda x: x[:, :2],
    lambda x: x[x[:, 0] > 0],
    lambda x: torch.where(x > 0, x, 0.0),
    lambda x: x.half().double(),
    lambda x: x.sum(),
    lambda x: torch.nn.functional.one_hot(x.long().abs()),
    lambda x: torch.ones(3).to(x),
    lambda x: torch.cat([x, x]),
    lambda x: x.data,
    lambda x: copy.deepcopy(x),
    lambda x: x.flatten().quantile(0.9),
]


@pytest.mark.parametrize("make", MADE_THERE)
def test_what_is_made_of_the_device_stays_there(cuda, make):
    x = made(4, 3)
    result = make(x)
    assert isinstance(result, SimTensor) and result.device == DEVICE and result.is_cuda


MADE_HERE = [
    lambda x: x.cpu(),
    lambda x: x.to("cpu", torch.float64),
    lambda x: torch.zeros_like(x, device="cpu"),
    lambda x: x.new_zeros(2, device="cpu"),
    lambda x: torch.as_tensor(x, device="cpu"),
    lambda x: torch.ones(2, 3),
    lambda x: torch.ones(3).to(torch.float64),
]


@pytest.mark.parametrize("make", MADE_HERE)
def test_what_is_made_for_the_host_is_an_ordinary_tensor(cuda, make):
    assert type(make(made(4, 3))) is torch.Tensor


MIXES = [
    lambda there, here: there + here,
    lambda there, here: there @ here.T,
    lambda there, here: torch.cat([there, here]),
    lambda there, here: torch.stack([here, there]),
    lambda there, here: there.masked_fill(here > 0, 0.0),
    lambda there, here: there.index_select(0, torch.tensor([0])),
    lambda there, here: there.add_(here),
    lambda there, here: torch.where(here > 0, there, there),
    lambda there, here: here[there > 0],
    lambda there, here: there.__setitem__(slice(None), there + here),
    lambda there, here: there.index_put_((torch.tensor([0]),), here[:1]),
    lambda there, here: nn.functional.conv1d(there[None], here[:, :, None]),
    lambda there, here: torch.randn(2, device="cuda", generator=torch.Generator()),
    lambda there, here: there.normal_(generator=torch.Generator()),
    lambda there, here: setattr(there, "data", here),
    lambda there, here: torch.nn.functional.mse_loss(there, here),
    lambda there, here: there.lerp(here, 0.5),
    lambda there, here: there.flatten().quantile(here[0]),
]


@pytest.mark.parametrize("mix", MIXES)
def test_mixed_devices_are_refused(cuda, mix):
    with pytest.raises(MixedDevices):
        mix(made(4, 4), torch.ones(4, 4))


ALLOWED = [
    lambda there, here: there * torch.tensor(2.0),
    lambda there, here: torch.where(there > 0, there, torch.tensor(0.0)),
    lambda there, here: there[torch.tensor([0, 1])],
    lambda there, here: there.copy_(here),
    lambda there, here: there.__setitem__(0, here[0]),
    lambda there, here: here.__setitem__((0, 0), there[0, 0]),
]


@pytest.mark.parametrize("mix", ALLOWED)
def test_what_cuda_allows_is_allowed(cuda, mix):
    mix(made(4, 4), torch.ones(4, 4))


@pytest.mark.parametrize("convert", [lambda x: x.numpy(), lambda x: __import__("numpy").asarray(x)])
def test_no_numpy_of_a_device_tensor(cuda, convert):
    with pytest.raises(TypeError, match="use Tensor.cpu"):
        convert(made(3))


def test_an_optimiser_state_on_the_wrong_side_is_refused(cuda):
    weight = nn.Parameter(made(3))
    adam = torch.optim.Adam([weight], fused=True)
    weight.sum().backward()
    adam.step()
    assert all(isinstance(value, SimTensor) for value in adam.state[weight].values())
    adam.state[weight]["step"] = adam.state[weight]["step"].cpu()
    with pytest.raises(MixedDevices, match="_fused_adam_"):
        adam.step()


WAITS = {
    "item": lambda x: float(x[0, 0]),
    "tolist": lambda x: x.tolist(),
    "nonzero": lambda x: torch.where(x > 0),
    "index by a mask": lambda x: x[x > 0],
    "indices from the host": lambda x: x[torch.tensor([1])],
    "copy to the host": lambda x: x.cpu(),
    "copy to the device": lambda x: torch.zeros(3).to("cuda"),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "tensor from the host": lambda x: torch.tensor([1.0], device="cuda"),
    "copy_ to the device": lambda x: x.copy_(torch.zeros(4, 4)),
    "synchronize": lambda x: torch.cuda.synchronize(),
    "_linalg_check_errors": lambda x: torch.linalg.inv(x),
}


@pytest.mark.parametrize("kind", WAITS)
def test_waits_are_counted_by_kind(cuda, kind):
    x = made(4, 4)
    with cuda.record():
        WAITS[kind](x)
    assert {found for found, _ in cuda.syncs} == {kind} and sum(cuda.syncs.values()) == 1


def test_what_needs_no_wait_is_not_counted(cuda):
    x, pinned = made(4, 4), torch.ones(4, 4).pin_memory()
    with cuda.record():
        x.mul_(2.0).clamp_min(0.1)
        x[0, 1] = 3.0
        x[x > 100] = 0.0  # becomes masked_fill
        torch.zeros(3, device="cuda")
        torch.full((2,), 3.0, device="cuda")
        x.new_zeros(3)
        pinned.to("cuda", non_blocking=True)
        torch.where(x > 0, x, 0.0).sum().square()
    assert not cuda.syncs, cuda.table()


def test_launches_are_counted_without_views(cuda):
    x = made(4, 4)
    with cuda.record():
        (x[1:].T * 2).sum()
    assert dict(cuda.launches) == {"mul": 1, "sum": 1}


def test_nothing_is_noted_outside_of_a_record(cuda):
    with cuda.record():
        pass
    float(made(3)[0])
    assert not cuda.syncs and not cuda.launches


def test_gradients_are_those_of_the_cpu_and_cross_devices(cuda):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    results = []
    for device in ("cpu", "cuda"):
        leaf = x.clone().requires_grad_()
        weight = nn.Parameter(torch.ones(3, 2).to(device))
        ((leaf.to(device) @ weight).sin().cpu() * 2).sum().backward()
        assert leaf.grad is not None and weight.grad is not None and leaf.grad.device.type == "cpu"
        assert weight.grad.device.type == device
        results.append((leaf.grad, weight.grad.cpu()))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_modules_move_there_and_back(cuda):
    layer, x = nn.Linear(3, 2), torch.ones(4, 3)
    expected = layer(x)
    layer.to("cuda")
    assert all(isinstance(p, SimTensor) and p.requires_grad for p in layer.parameters())
    torch.testing.assert_close(layer(x.to("cuda")).cpu(), expected)
    layer.cpu()
    assert all(type(p) is nn.Parameter for p in layer.parameters())
    torch.testing.assert_close(layer(x), expected)


def test_saved_tensors_load_without_the_device(cuda):
    buffer = io.BytesIO()
    torch.save({"a": made(2, 2)}, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=True)["a"], made(2, 2).cpu())


def test_a_change_of_shape_in_place_is_not_followed_in_silence(cuda):
    with pytest.raises(NotImplementedError, match="in place"):
        made(4, 1).squeeze_(1)


def test_the_ledger_names_the_line_that_asks(cuda):
    from genfusion_ns.gaussians.losses import fit_scale_shift  # any function of the project

    values = made(40)
    with cuda.record():
        fit_scale_shift(values, 2 * values + 1, torch.ones(40, device="cuda"))
    assert all("genfusion_ns/gaussians/losses.py:" in line for _, line in LEDGER.syncs)
