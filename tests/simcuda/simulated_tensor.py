"""A tensor that says it is on a GPU, what its operators do there, and the ledger of what a host would wait for."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
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
            self.syncs[kind, asking_line()] += 1

    def table(self) -> str:
        """The waits, the most frequent first, one a line."""
        return "\n".join(f"{count:4d}  {kind:28s} {line}" for (kind, line), count in self.syncs.most_common())


LEDGER = Ledger()


def asking_line() -> str:
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
            raise MixedDevices(f"a CPU tensor is put into the data of one on {DEVICE} at {asking_line()}")
        torch._C.TensorBase.data.__set__(self, value)  # type: ignore[attr-defined]
        self.elem = value.elem.detach()

    def get_device(self) -> int:
        return 0

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert a {DEVICE} tensor to numpy at {asking_line()}; use Tensor.cpu() first")

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
        raise MixedDevices(f"{name}: expected a generator on {DEVICE}, found one on the CPU, at {asking_line()}")
    if name in INDEXING and on_device(args[0]):
        here = [t for t in args[2:] if isinstance(t, Tensor) and not on_device(t)]
    scalars = name in INDEXING or name == "fill_" or torch.Tag.pointwise in func.tags
    if [t for t in here if t.dim() > 0 or not scalars]:
        shapes = [list(t.shape) for t in here]
        raise MixedDevices(f"{func} is given tensors on {DEVICE} and on the CPU {shapes} at {asking_line()}")


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
