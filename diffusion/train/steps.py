"""A training loop of a page: batches made ahead, exact resume, bad steps skipped, averaged weights, a line of JSON per
hundred steps."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffusion.train.checkpoint import TrainState, resume_latest
from diffusion.train.rates import ema_decay, learning_rate

log = logging.getLogger(__name__)

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class StepsConfig:
    """What the runs of all networks share."""

    output: Path = Path("runs/training")
    """Where checkpoints, the log and the weights go; a run found here is continued."""
    steps: int = 30_000
    """Steps of the run; the learning rate follows a cosine over them."""
    learning_rate: float = 5e-4
    """Of AdamW, after a warm-up of 200 steps."""
    batch: int = 2
    """Samples per step."""
    seed: int = 0
    """Batches are functions of it and the step."""
    threads: int = 1
    """CPU threads."""
    workers: int = 0
    """Processes that make batches ahead, as a GPU wants; 0 = each is made when its step comes."""
    save_every: int = 100
    """Steps between checkpoints, of which the last two are kept."""
    keep_every: int = 1000
    """Steps between validations, at which the averaged weights are written too."""
    stop_after: int | None = None
    """Leave after this step although more follow."""


class _Batches(Dataset[Batch]):
    """The batch of each step."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Batch:
        return self.make(step)


def made_ahead(make: Callable[[int], Batch], first: int, end: int, workers: int) -> Iterator[Batch]:
    """make(first), ..., make(end - 1) in this order, from `workers` processes (forks of this one; 0 = here). `make`
    runs on the CPU; a batch is made of tensors on it."""
    ahead = {"multiprocessing_context": "fork", "prefetch_factor": 4} if workers else {}
    yield from DataLoader(_Batches(make), batch_size=None, sampler=range(first, end), num_workers=workers, **ahead)


def train_steps(
    state: TrainState,
    config: StepsConfig,
    make: Callable[[int], Batch],
    loss: Callable[[int, Batch], tuple[Tensor, dict[str, Tensor]]],
    keep: Callable[[], dict[str, Any]],
) -> None:
    """Run to the end from the newest checkpoint in `config.output`.

    Args:
        make: the batch of a step, on the CPU.
        loss: the loss of a step and its batch, and scalars for the log, which are read once per hundred steps.
        keep: writes the averaged weights and returns their validation.
    """
    torch.set_num_threads(config.threads)
    if found := resume_latest(state, config.output / "checkpoints"):
        log.info("continuing from %s", found)
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "config.json").write_text(json.dumps(asdict(config), default=str, indent=1), encoding="utf-8")
    end = config.steps if config.stop_after is None else min(config.stop_after, config.steps)
    rows: list[dict[str, Tensor]] = []
    began = time.monotonic()
    for batch in made_ahead(make, state.step, end, config.workers):
        rows.append(_step(state, config, loss, batch))
        if state.step % 100 == 0:
            _write_line(config.output, {"step": state.step, "seconds": round(time.monotonic() - began), **_means(rows)})
            rows = []
        if state.step % config.keep_every == 0 or state.step == end:
            # before the checkpoint: a run that is cut off here does it again
            _write_line(config.output, {"step": state.step, "validation": keep()})
        if state.step % config.save_every == 0 or state.step == end:
            state.save(config.output / "checkpoints")


def _step(
    state: TrainState,
    config: StepsConfig,
    loss: Callable[[int, Batch], tuple[Tensor, dict[str, Tensor]]],
    batch: Batch,
) -> dict[str, Tensor]:
    """One step; where the loss or the gradient is not finite, nothing changes but the counters."""
    rate = learning_rate(state.step, config.steps, config.learning_rate)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    value, logs = loss(state.step, batch)
    state.optimizer.zero_grad()
    value.backward()
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    if bool(torch.isfinite(value) & torch.isfinite(norm)):
        state.optimizer.step()
        state.update_average(ema_decay(state.step - state.skipped, 0.999))
    else:
        state.skipped += 1
        log.warning("step %d was skipped: its loss or gradient is not finite", state.step)
    state.step += 1
    return {"loss": value.detach(), **{name: found.detach() for name, found in logs.items()}}


def _means(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    """Of each name over the rows that have it."""
    columns: dict[str, list[Tensor]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: round(float(torch.stack(values).mean()), 5) for name, values in columns.items()}


def _write_line(output: Path, facts: dict[str, Any]) -> None:
    with open(output / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")
