"""A make-believe CUDA device for machines without one.

`simulated_cuda` makes torch say that there is a GPU. A tensor on it is a `SimTensor`: it reports cuda:0, holds its
values in a CPU tensor, raises `MixedDevices` where an operation mixes devices as CUDA would refuse to, and notes in
`LEDGER` what would have made the host wait for the device, and what would have been launched. Values are exact; what
can't be found this way: races, kernels' own faults, and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from simulated_tensor import CPU, DEVICE, LEDGER, Ledger, MixedDevices, SimTensor, asking_line, bare, clad, on_device
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

# -- functions: factories and moves, which C++ would run on the CPU or refuse --------------------------------------

FACTORIES = """arange asarray as_tensor empty empty_like empty_strided eye full full_like from_numpy linspace logspace
    ones ones_like rand rand_like randint randint_like randn randn_like randperm scalar_tensor tensor tril_indices
    triu_indices zeros zeros_like"""
FACTORY_FUNCTIONS = {getattr(torch, name) for name in FACTORIES.split()}
FROM_HOST = {torch.tensor, torch.as_tensor, torch.asarray}
NEW = {Tensor.new_tensor, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty}
MOVES = {Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.type, Tensor.pin_memory}
QUANTILES = {torch.quantile, Tensor.quantile}
WATCHED = FACTORY_FUNCTIONS | NEW | MOVES | QUANTILES | {torch.nn.functional.one_hot}


class _Mode(TorchFunctionMode):
    """Sends factories and moves to the make-believe device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in WATCHED:
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if func in MOVES:
            return _move(func, first, list(args[1:]), kwargs)
        if func in NEW and on_device(first):
            return _new(func, args, kwargs)
        if func is torch.nn.functional.one_hot and on_device(first):
            return clad(func(first.elem, *args[1:], **kwargs))  # on CUDA it looks at no values
        if func in QUANTILES and on_device(first):
            return _quantile(func, args, kwargs)
        if func in FACTORY_FUNCTIONS:
            return _make(func, args, kwargs)
        return func(*args, **kwargs)


def _to_cuda(device: Any) -> bool:
    return isinstance(device, int) or (device is not None and torch.device(device).type == "cuda")


def _quantile(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Inside of it C++ makes tensors on the device that it sees beneath."""
    if any(isinstance(x, Tensor) and not on_device(x) for x in args):
        raise MixedDevices(f"quantile is given tensors on {DEVICE} and on the CPU at {asking_line()}")
    if args[0].requires_grad and torch.is_grad_enabled():
        raise NotImplementedError("quantile has no gradient on the make-believe device")
    return clad(func(*map(bare, args), **kwargs))


def _new(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    device = kwargs.pop("device", None)
    kept = device is None or _to_cuda(device)
    if func is Tensor.new_tensor and kept:
        LEDGER.wait("new_tensor")
    elif kept and LEDGER.on:
        LEDGER.launches[func.__name__] += 1
    result = func(args[0].elem.detach(), *tree_map(bare, args[1:]), **kwargs)
    return clad(result) if kept else result


def _make(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    like = args[0] if args and on_device(args[0]) else None
    device = kwargs.pop("device", None)
    if not _to_cuda(device) and (like is None or device is not None):
        if device is not None:
            kwargs["device"] = device
        if like is None:
            return func(*args, **kwargs)
        if func in FROM_HOST:
            LEDGER.wait("copy to the host")
        return func(bare(like).detach().clone(), *args[1:], **kwargs)
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != "cuda":
        raise MixedDevices(f"{func.__name__}: expected a generator on {DEVICE}, at {asking_line()}")
    if func in (torch.as_tensor, torch.asarray) and like is not None and kwargs.get("dtype") in (None, like.dtype):
        return like
    if func in FROM_HOST and like is None:
        LEDGER.wait("tensor from the host")
    elif LEDGER.on:
        LEDGER.launches[func.__name__] += 1
    requires_grad = kwargs.pop("requires_grad", False)
    if args and isinstance(args[0], Tensor):
        args = (bare(args[0]).detach(), *args[1:])
    return SimTensor(func(*args, **kwargs)).requires_grad_(requires_grad)


def _move(func: Any, x: Tensor, rest: list[Any], kwargs: dict[str, Any]) -> Any:
    """Tensor.to and its kin, in all their forms."""
    if func is Tensor.pin_memory:
        pinned = x.clone()
        pinned._sim_pinned = True  # type: ignore[attr-defined]
        return pinned
    if func is Tensor.type and not rest and not kwargs:
        return func(bare(x)).replace("torch.", "torch.cuda." if on_device(x) else "torch.")
    device, dtype, other = kwargs.get("device"), kwargs.get("dtype"), kwargs.get("other")
    non_blocking, copy = kwargs.get("non_blocking", False), kwargs.get("copy", False)
    layout = kwargs.get("memory_format")
    for value in rest:
        if isinstance(value, Tensor):
            other = value
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, bool):
            non_blocking = value
        elif value is not None:
            device = value
    if other is not None:
        device, dtype = other.device, other.dtype
    if func is not Tensor.to and func is not Tensor.type:
        device = DEVICE if func is Tensor.cuda else CPU
    there = on_device(x) if device is None else _to_cuda(device)
    if device is not None and not there and torch.device(device).type != "cpu":
        return bare(x).to(device, dtype)  # the meta device
    dtype = dtype or x.dtype
    if there == on_device(x) and dtype == x.dtype and not copy and layout is None:
        return x
    if there != on_device(x) and not (non_blocking and getattr(x, "_sim_pinned", False)):
        LEDGER.wait("copy to the device" if there else "copy to the host")
    return _Moved.apply(x, there, dtype, layout or torch.preserve_format)


class _Moved(torch.autograd.Function):
    """A copy on the other side, whose gradient comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: bool, dtype: torch.dtype, layout: torch.memory_format) -> Any:
        ctx.was_there, ctx.dtype = on_device(x), x.dtype
        if LEDGER.on:
            LEDGER.launches["copy"] += 1
        copy = bare(x).detach().to(dtype, copy=True, memory_format=layout)
        return clad(copy) if there else copy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        gradient = bare(grads[0]).to(ctx.dtype)
        return (clad(gradient) if ctx.was_there else gradient), None, None, None


# -- the device as a whole -----------------------------------------------------------------------------------------


@contextmanager
def simulated_cuda(
    capability: tuple[int, int] = (8, 6), memory: tuple[int, int] = (20 << 30, 24 << 30)
) -> Iterator[Ledger]:
    """Within it torch says that there is one CUDA device.

    Args:
        capability: of its kernels; 8.0 and above have bfloat16.
        memory: bytes free and in all.
    """
    answers: dict[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "make-believe GPU",
        "get_device_capability": capability,
        "is_bf16_supported": capability >= (8, 0),
        "mem_get_info": memory,
        "get_rng_state": torch.zeros(1, dtype=torch.uint8),
    }
    silent = "empty_cache set_device manual_seed manual_seed_all reset_peak_memory_stats set_rng_state _lazy_init"
    answers |= dict.fromkeys(silent.split()) | {"max_memory_allocated": 0, "memory_allocated": 0, "memory_reserved": 0}
    engine = torch.autograd._engine_run_backward
    mode = _Mode()

    def backward(*args: Any, **kwargs: Any) -> Any:
        with mode:  # torch leaves modes while it runs the engine; custom backward passes make tensors too
            return engine(*args, **kwargs)

    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, _constant(answer)))
        wait = mock.patch.object(torch.cuda, "synchronize", lambda *_, **__: LEDGER.wait("synchronize"))
        stack.enter_context(wait)
        stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", backward))
        # a module's parameters change their class as they move
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        stack.enter_context(mode)
        yield LEDGER


def _constant(answer: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: answer
