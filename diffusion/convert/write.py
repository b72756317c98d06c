"""Writing a pipeline folder: tensor by tensor, and only as a whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from diffusion.convert.checkpoint import Checkpoint
from diffusion.convert.pieces import NetworkPlan
from diffusion.errors import UserError

# safetensors copies what it writes, so twice this is resident at once.
SHARD_BYTES = 10**9

# Pages of the checkpoint that may be resident before they are given back.
MAPPED_BYTES = 5 * 10**8


@contextmanager
def atomic_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder beside `out`, which takes its place on success and vanishes on failure.

    Raises:
        UserError: if `out` exists, is not an empty folder, and may not be overwritten.
    """
    if out.exists() and not overwrite and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out} exists already; give another folder, or add --overwrite.")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        yield partial
        if out.is_file():
            out.unlink()
        elif out.exists():
            shutil.rmtree(out)
        os.replace(partial, out)
    finally:
        if partial.exists():
            shutil.rmtree(partial)


def write_network(
    network: NetworkPlan,
    checkpoint: Checkpoint,
    folder: Path,
    dtype: torch.dtype,
    advance: Callable[[int], None],
) -> list[Path]:
    """Write one network's configuration and weights; at most one shard of it is in memory.

    Args:
        network: its plan.
        checkpoint: where the plan's tensors are.
        folder: the network's own folder; created.
        dtype: of the written weights.
        advance: called with the number of parameters written since the last call.

    Returns:
        The weight files.

    Raises:
        UserError: for weights that are not finite, or not within `dtype`'s range.
    """
    folder.mkdir()
    _save_config(network.model, folder, dtype)
    expected = network.model.state_dict()
    stem = "model" if isinstance(network.model, PreTrainedModel) else "diffusion_pytorch_model"
    shards = _shards({name: tensor.numel() * dtype.itemsize for name, tensor in expected.items()})
    weight_map, files = {}, []
    for number, names in enumerate(shards, start=1):
        ending = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        file = folder / f"{stem}{ending}.safetensors"
        save_file(_convert(network, names, checkpoint, dtype, advance), file, metadata={"format": "pt"})
        file.chmod(0o644)  # safetensors leaves it to the owner alone.
        weight_map |= dict.fromkeys(names, file.name)
        files.append(file)
    if len(shards) > 1:
        total = sum(tensor.numel() for tensor in expected.values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return files


def _shards(sizes: dict[str, int]) -> list[list[str]]:
    """Names in order, cut into groups of at most `SHARD_BYTES` (a larger tensor is a group of its own)."""
    groups, room = [[]], SHARD_BYTES
    for name, size in sizes.items():
        if size > room and groups[-1]:
            groups.append([])
            room = SHARD_BYTES
        groups[-1].append(name)
        room -= size
    return groups


def _convert(
    network: NetworkPlan,
    names: list[str],
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    advance: Callable[[int], None],
) -> dict[str, Tensor]:
    shard, mapped = {}, 0
    for name in names:
        tensor = network.pieces[name].build(lambda source: checkpoint.read(network.prefix + source))
        mapped += tensor.numel() * tensor.element_size()
        converted = tensor.detach().to(dtype, copy=True).contiguous()
        if not torch.isfinite(converted).all():
            _complain(network.prefix + network.pieces[name].source, tensor, dtype)
        shard[name] = converted
        del tensor
        advance(converted.numel())
        if mapped > MAPPED_BYTES:
            checkpoint.release()
            mapped = 0
    checkpoint.release()
    return shard


def _complain(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if torch.isfinite(tensor).all():
        raise UserError(
            f"{name} holds {tensor.abs().max():.3g}, which is beyond {str(dtype).removeprefix('torch.')}'s "
            "range; "
            "convert with --dtype fp32."
        )
    raise UserError(f"{name} holds NaN or infinite weights; the checkpoint is damaged, download it again.")


def _save_config(model: torch.nn.Module, folder: Path, dtype: torch.dtype) -> None:
    if isinstance(model, PreTrainedModel):
        model.config.architectures = [type(model).__name__]
        model.config.dtype = str(dtype).removeprefix("torch.")
        model.config.save_pretrained(folder)
    else:
        model.save_config(folder)  # pyright: ignore[reportCallIssue]
