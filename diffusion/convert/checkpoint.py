"""Reading a checkpoint of any size without holding it in memory."""

from __future__ import annotations

import hashlib
import pickle
import types
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffusion.convert.pieces import Shape
from diffusion.errors import UserError, first_line

DEEPSPEED_PREFIX = "_forward_module."
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, AttributeError, TypeError, ValueError, OSError)
"""What torch raises for files that are damaged, or something else."""


class Checkpoint:
    """Tensors of a file by name, memory-mapped: a tensor's pages are read when it is used.

    Pages stay resident while they are mapped, so `release` now and then unmaps the file and maps it again. No code of
    the file's choosing runs: Python objects besides tensors and plain values become empty placeholders.

    Args:
        path: a torch file (Lightning, DeepSpeed or a plain state dict) or a .safetensors file.

    Raises:
        UserError: for a file that is missing, incomplete, or no checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_readable(path)
        self._tensors = self._open()
        self.shapes: dict[str, Shape] = {name: shape for name, (shape, _) in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        """A tensor, on the file's own pages; copy it before `release`."""
        return self._tensors[name][1]()

    def release(self) -> None:
        """Give back the memory of all pages that were read."""
        self._tensors = {}
        self._tensors = self._open()

    def _open(self) -> dict[str, tuple[Shape, Callable[[], Tensor]]]:
        if self.path.suffix == ".safetensors":
            return _open_safetensors(self.path)
        return {
            name.removeprefix(DEEPSPEED_PREFIX): (tuple(tensor.shape), lambda tensor=tensor: tensor)
            for name, tensor in _state_dict(_load_torch(self.path), self.path).items()
        }


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _check_readable(path: Path) -> None:
    if path.is_dir():
        raise UserError(
            f"{path} is a folder; expected a checkpoint file (.ckpt, .pt, .safetensors). "
            "Of a DeepSpeed folder, give checkpoint/mp_rank_00_model_states.pt."
        )
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a checkpoint file (.ckpt, .pt, .safetensors).")
    with path.open("rb") as file:
        head = file.read(200)
    hint = f"{path} ({path.stat().st_size:,} bytes)"
    if not head:
        raise UserError(f"{hint} is empty; download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{hint} is a Git LFS pointer, not the file itself; run `git lfs pull`, or download it.")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise UserError(f"{hint} is a web page, not a checkpoint; download the file itself.")


def _open_safetensors(path: Path) -> dict[str, tuple[Shape, Callable[[], Tensor]]]:
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is no complete safetensors file ({error}); download it again."
        ) from error
    return {
        name.removeprefix(DEEPSPEED_PREFIX): (
            tuple(file.get_slice(name).get_shape()),
            lambda name=name: file.get_tensor(name),
        )
        for name in file.keys()  # noqa: SIM118 (the file itself is not iterable)
    }


def _load_torch(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is no complete torch file: either it is cut off (compare its "
            "size with the original's, and download it again), or it was not written by torch 1.6 or newer."
        )
    mapped: dict[str, Any] = {"map_location": "cpu", "mmap": True}
    try:
        try:
            return torch.load(path, **mapped, weights_only=True)
        except pickle.UnpicklingError:  # it holds other objects, too
            return torch.load(path, **mapped, weights_only=False, pickle_module=_placeholder_pickle())
    except UNREADABLE as error:
        raise UserError(f"{path} is no readable torch checkpoint ({first_line(error)}); download it again.") from error


class _Placeholder:
    """Stands for an object of a class that has no business in a checkpoint's weights."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _Placeholder:
        return self

    def append(self, value: Any) -> None:
        """Lists and deques of the file's own classes fill themselves by this."""

    def extend(self, values: Any) -> None:
        """As `append`."""


class _PlaceholderUnpickler(pickle.Unpickler):
    """Builds tensors and plain containers; everything else becomes a `_Placeholder`, so no foreign code runs."""

    ALLOWED = frozenset(
        {
            ("collections", "OrderedDict"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch._utils", "_rebuild_tensor"),
            ("torch._utils", "_rebuild_parameter"),
            ("torch", "Size"),
            ("torch", "device"),
        }
    )

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        is_dtype = module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)
        if is_dtype or (module_name, global_name) in self.ALLOWED:
            return super().find_class(module_name, global_name)
        return _Placeholder


def _placeholder_pickle() -> Any:
    """A stand-in for the pickle module, for `torch.load`."""
    module: Any = types.ModuleType("placeholder_pickle")
    module.Unpickler = _PlaceholderUnpickler
    return module


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a Lightning file ("state_dict"), a DeepSpeed file ("module"), or a plain state dict."""
    found = loaded
    for key in ("state_dict", "module"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            found = loaded[key]
            break
    if not isinstance(found, Mapping):
        raise UserError(f"{path} holds a {type(found).__name__}; expected a dictionary of tensors.")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        names = ", ".join(str(key) for key in list(found)[:10]) or "nothing"
        raise UserError(
            f"{path} holds no tensors under state_dict, module or at its top level, but {names}; expected a "
            "checkpoint of Lightning or DeepSpeed."
        )
    return tensors
