"""Writing a pipeline folder: tensor by tensor, and only as a whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
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
) -> None:
    """Write one network's configuration and weights; at most one shard of it is in memory.

    Args:
        network: its plan.
        checkpoint: where the plan's tensors are.
        folder: the network's own folder; created.
        dtype: of the written weights.
        advance: called with the number of parameters written since the last call.

    Raises:
        UserError: for weights that are not finite, or not within `dtype`'s range.
    """
    folder.mkdir()
    _save_config(network.model, folder, dtype)
    stem = "model" if isinstance(network.model, PreTrainedModel) else "diffusion_pytorch_model"
    shards = split_state_dict_into_shards_factory(
        network.model.state_dict(),
        get_storage_size=lambda tensor: tensor.numel() * dtype.itemsize,
        filename_pattern=stem + "{suffix}.safetensors",
        max_shard_size=SHARD_BYTES,
    )
    for name, tensors in shards.filename_to_tensors.items():
        save_file(_convert(network, tensors, checkpoint, dtype, advance), folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)  # safetensors leaves it to the owner alone.
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2))


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
            f"{name} holds {tensor.abs().max():.3g}, which is beyond {str(dtype).removeprefix('torch.')}'s range; "
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
