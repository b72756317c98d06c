"""Checkpoints of a training run: one safetensors file each, written as a whole or not at all."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.files import replacing

log = logging.getLogger(__name__)

KEPT = 2


@dataclass
class TrainState:
    """All that changes over a run: loop counters, the networks' average, and the network and optimiser beside it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    """The average of the weights by name, float32."""
    step: int = 0
    """Steps done."""
    skipped: int = 0
    """Of these, steps whose loss or gradient was not finite, and that changed nothing."""

    def save(self, folder: Path) -> Path:
        """Write a checkpoint, and remove all but the newest two. Raises OSError if there is no room; all old ones stay
        then."""
        path = folder / f"step_{self.step:07d}.safetensors"
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for index, entry in optimizer["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in entry.items()}
        facts = {"step": self.step, "skipped": self.skipped, "groups": optimizer["param_groups"]}
        stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        with replacing(path) as temporary:
            save_file(stored, temporary, {"facts": json.dumps(facts)})
        for old in checkpoints(folder)[:-KEPT]:
            old.unlink()
        return path

    def load(self, path: Path) -> None:
        """Take everything from a checkpoint.

        Raises:
            UserError: the file is broken, or belongs to other networks.
        """
        tensors, facts = read_checkpoint(path)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        try:
            self.model.load_state_dict(parts["model"])
        except RuntimeError as error:
            raise UserError(
                f"{path} belongs to other networks ({str(error).splitlines()[0]}); continue with the run's own "
                f"configuration, or give another output folder"
            ) from error
        for name, value in self.average.items():
            value.copy_(parts["average"][name])
        state: dict[int, dict[str, Any]] = {}
        for name, value in parts["optimizer"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})
        self.step, self.skipped = facts["step"], facts["skipped"]

    def update_average(self, decay: float) -> None:
        """Move the average towards the network's weights by 1 - `decay`."""
        values = self.model.state_dict()
        with torch.no_grad():
            newest = [values[name].float() for name in self.average]
            torch._foreach_lerp_([*self.average.values()], newest, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]


def average_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's weights, to start an average from."""
    return {name: value.detach().float().clone() for name, value in model.state_dict().items()}


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step_*.safetensors"))


def resume_latest(state: TrainState, folder: Path) -> Path | None:
    """Continue from the newest checkpoint that can be read; a broken one is named in the log and passed over."""
    for path in reversed(checkpoints(folder)):
        try:
            read_checkpoint(path)
        except UserError as error:
            log.warning("%s; trying the one before", error)
            continue
        state.load(path)
        return path
    return None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a checkpoint. Raises UserError, one line, if the file is broken."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"the checkpoint {path} cannot be read ({error})") from error
