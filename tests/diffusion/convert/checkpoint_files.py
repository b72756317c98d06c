"""Checkpoints on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


def save(state: dict[str, Tensor], path: Path) -> Path:
    torch.save({"state_dict": state}, path)
    return path


def as_safetensors(state: dict[str, Tensor], path: Path) -> Path:
    save_file(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")
