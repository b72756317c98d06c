"""What a forward pass takes, found without computing it: modules on the meta device have shapes but no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def peak_bytes(function: Callable[[], Any]) -> int:
    """Bytes of all tensors that a function of meta tensors makes and that are alive at once, its result included,
    weights and arguments not. Attention counts as fused: its logits are never in memory."""
    live = _LiveBytes()
    with torch.no_grad(), live, _FusedAttention():
        result = function()
    del result
    return live.peak


class _FusedAttention(TorchFunctionMode):
    """Answers `scaled_dot_product_attention` with a tensor of the right shape; torch would take it apart on meta."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, value = (args[0], args[2]) if len(args) >= 3 else (kwargs["query"], kwargs["value"])
        return query.new_empty((*query.shape[:-1], value.shape[-1]))


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages that operators make, and takes each off when its last tensor is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = {id(t.untyped_storage()) for t in tree_iter((args, kwargs or {})) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in arguments:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.current -= size
