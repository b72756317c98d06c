"""A make-believe CUDA device for machines without one.

`simulated_cuda` makes torch say that there is a GPU. A tensor on it is a `SimTensor`: it reports cuda:0, holds its
values in a CPU tensor, raises `MixedDevices` where an operation mixes devices as CUDA would refuse to, and notes in
`LEDGER` what would have made the host wait for the device, and what would have been launched. Values are exact; what
can't be found this way: races, kernels' own faults, and memory.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("cuda", 0)
CPU = torch.device("cpu")
aten = torch.ops.aten

INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
"""Operators that take indices from the CPU, at the price of a copy."""
WAITS = {
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
    "is_nonzero",
    "_linalg_svd",
    "_linalg_eigh",
    "_linalg_check_errors",
    "bincount",
}
"""Operators whose result's size, or error, the host has to know."""
VIEWS = {"view", "_unsafe_view", "expand", "slice", "select", "unsqueeze", "squeeze", "permute", "transpose", "t"}
VIEWS |= {
    "detach",
    "alias",
    "as_strided",
    "_reshape_alias",
    "diagonal",
    "split",
    "split_with_sizes",
    "unbind",
    "narrow",
}
"""Operators that launch nothing."""
SOURCES = ("/genfusion_ns/", "/diffusion/", "/gsplat/", "/nerfstudio/")


class MixedDevices(RuntimeError):
    """CUDA would refuse this operation."""


@dataclass
class Ledger:
    """What the device was asked for, while `record` is on."""

    syncs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Waits of the host by kind and by the line of source that asked."""
    launches: Counter[str] = field(default_factory=Counter)
    """Operators that launch kernels, by name."""
    on: bool = False

    @contextmanager
    def record(self) -> Iterator[Ledger]:
        """Start from nothing and note everything within."""
        self.syncs.clear()
        self.launches.clear()
        self.on = True
        try:
            yield self
        finally:
            self.on = False

    def wait(self, kind: str) -> None:
        """Note that the host waits here."""
        if self.on:
            self.syncs[kind, _asking_line()] += 1

    def table(self) -> str:
        """The waits, the most frequent first, one a line."""
        return "\n".join(f"{count:4d}  {kind:28s} {line}" for (kind, line), count in self.syncs.most_common())


LEDGER = Ledger()


def _asking_line() -> str:
    """file:line of the nearest caller in this project, gsplat or Nerfstudio."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if any(part in name for part in SOURCES) and "/diffusers/" not in name:
            return f"{name.split('site-packages/')[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class SimTensor(torch.Tensor):
    """A tensor that says that it is on cuda:0; `elem` holds its values on the CPU."""

    elem: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem: Tensor) -> SimTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            layout=elem.layout,
            device=CPU,  # a build without CUDA knows no other
        )
        tensor.elem = elem
        return tensor

    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @property
    def data(self) -> Tensor:
        """As torch's: shares memory, has no history."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, SimTensor):
            raise MixedDevices(f"a CPU tensor is put into the data of one on {DEVICE} at {_asking_line()}")
        torch._C.TensorBase.data.__set__(self, value)  # type: ignore[attr-defined]
        self.elem = value.elem.detach()

    def get_device(self) -> int:
        return 0

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert a {DEVICE} tensor to numpy at {_asking_line()}; use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        LEDGER.wait("tolist")
        return self.elem.detach().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.elem.untyped_storage()

    def data_ptr(self) -> int:
        return self.elem.data_ptr()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"SimTensor({self.elem!r})"

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.elem.detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> SimTensor:
        copy = SimTensor(self.elem.detach().clone()).requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        return copy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def on_device(values: Any) -> bool:
    """Whether this is a tensor on the make-believe device."""
    return isinstance(values, SimTensor)


def bare(values: Any) -> Any:
    """The CPU tensor that holds the values; anything else as it is."""
    return values.elem if isinstance(values, SimTensor) else values


def clad(values: Any) -> Any:
    """A CPU tensor as one on the device; anything else as it is."""
    return SimTensor(values) if isinstance(values, Tensor) and not isinstance(values, SimTensor) else values


# -- operators -----------------------------------------------------------------------------------------------------


def _dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = func._schema.name.split("::")[-1]
    if name == "_to_copy":
        return _copied(func, args, kwargs)
    if name == "copy_" and on_device(args[0]) != on_device(args[1]):
        if args[1].dim() > 0 or on_device(args[1]):  # device[i] = number fills
            LEDGER.wait("copy_ to the device" if on_device(args[0]) else "copy_ to the host")
        func(*map(bare, args), **kwargs)
        return args[0]
    if name == "fill_" and not on_device(args[0]):
        LEDGER.wait("copy_ to the host")  # host[i] = value on the device
        args[0].fill_(bare(args[1]))
        return args[0]
    if name == "_local_scalar_dense":
        LEDGER.wait("item")
        return func(bare(args[0]))
    there: list[SimTensor] = []
    here: list[Tensor] = []
    bare_args = tuple([_sorted(x, there, here) for x in args])
    bare_kwargs = {key: _sorted(x, there, here) for key, x in kwargs.items()}
    if here or "generator" in kwargs:
        _refuse_mixed(func, name, args, kwargs, here)
    if LEDGER.on:
        _note(name, args)
    if bare_kwargs.get("device") is not None:
        bare_kwargs["device"] = CPU  # C++ fills in the device that it sees beneath, or the one that was asked for
    result = _computed(func, name, bare_args, bare_kwargs)
    if func._schema.is_mutable and any(t.shape != t.elem.shape for t in there):
        raise NotImplementedError(f"{func} changes a tensor's shape in place, which SimTensor can't follow")
    return _clad_result(result, {id(t.elem): t for t in there})


def _sorted(x: Any, there: list[SimTensor], here: list[Tensor]) -> Any:
    """An argument without its cladding; its tensors are put into one of the two lists."""
    if isinstance(x, SimTensor):
        there.append(x)
        return x.elem
    if isinstance(x, Tensor):
        here.append(x)
        return x
    return [_sorted(y, there, here) for y in x] if isinstance(x, list | tuple) else x


def _clad_result(x: Any, own: dict[int, SimTensor]) -> Any:
    """A result on the device; in-place operators give back their argument."""
    if isinstance(x, Tensor):
        return own.get(id(x)) if id(x) in own else clad(x)
    return type(x)([_clad_result(y, own) for y in x]) if isinstance(x, list | tuple) else x


def _computed(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if name != "convolution" or args[0].dtype not in (torch.bfloat16, torch.float16):
        return func(*args, **kwargs)
    # CPUs take a hundred times as long for these; as on CUDA, sums are float32
    wide = tree_map(lambda x: x.float() if isinstance(x, Tensor) else x, args)
    return func(*wide, **kwargs).to(args[0].dtype)


def _copied(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    device = kwargs.pop("device", None)
    stays = on_device(args[0]) if device is None else torch.device(device).type == "cuda"
    if LEDGER.on:
        LEDGER.launches["_to_copy"] += 1
    result = func(bare(args[0]), **kwargs)
    return clad(result) if stays else result


def _refuse_mixed(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], here: list[Tensor]) -> None:
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != "cuda":
        raise MixedDevices(f"{name}: expected a generator on {DEVICE}, found one on the CPU, at {_asking_line()}")
    if name in INDEXING and on_device(args[0]):
        here = [t for t in args[2:] if isinstance(t, Tensor) and not on_device(t)]
    scalars = name in INDEXING or name == "fill_" or torch.Tag.pointwise in func.tags
    if [t for t in here if t.dim() > 0 or not scalars]:
        shapes = [list(t.shape) for t in here]
        raise MixedDevices(f"{func} is given tensors on {DEVICE} and on the CPU {shapes} at {_asking_line()}")


def _note(name: str, args: tuple[Any, ...]) -> None:
    """Waits and launches of an operator whose tensors are where they should be."""
    if name not in VIEWS:
        LEDGER.launches[name] += 1
    if name in WAITS or (name == "repeat_interleave" and len(args) == 1):
        LEDGER.wait(name)
    if name in INDEXING:
        indices = [i for i in args[1] if i is not None]
        by_mask = any(i.dtype in (torch.bool, torch.uint8) for i in indices)
        if by_mask and (len(args) < 3 or args[2].numel() > 1):
            LEDGER.wait("index by a mask")
        if not all(on_device(i) for i in indices):
            LEDGER.wait("indices from the host")


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
        raise MixedDevices(f"quantile is given tensors on {DEVICE} and on the CPU at {_asking_line()}")
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
        raise MixedDevices(f"{func.__name__}: expected a generator on {DEVICE}, at {_asking_line()}")
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
