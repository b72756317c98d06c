"""The training loop of both runs: accelerate around it, exact resume, bad steps skipped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard.writer import SummaryWriter

from diffusion.errors import UserError
from diffusion.train.batches import RepairBatch, augment, generator_of, joined, network_pair, window
from diffusion.train.checkpoint import TrainState, average_of, resume_latest
from diffusion.train.config import RunConfig, Stage, stage_at, total_steps
from diffusion.train.losses import ema_decay, learning_rate
from diffusion.train.shards import ClipRef, ShardError, build_index, load_pair

log = logging.getLogger(__name__)


class Task(Protocol):
    """What a run computes; see `VaeTask` and `RepairTask`."""

    networks: Any

    def loss(
        self, model: nn.Module, batch: RepairBatch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]: ...


@dataclass
class StepBatches(Dataset[RepairBatch]):
    """The batch of every step, as a function of (seed, step, process) alone, so that a resumed run sees the same."""

    refs: list[ClipRef]
    stages: tuple[Stage, ...]
    photo_size: tuple[int, int]
    fill_holes: bool
    seed: int
    process: int = 0
    augmented: bool = True

    def __len__(self) -> int:
        return total_steps(self.stages)

    def __getitem__(self, step: int) -> RepairBatch:
        generator = generator_of(self.seed, "batch", step, self.process)
        stage = stage_at(self.stages, step)
        return joined([self._clip(stage, generator) for _ in range(stage.batch)])

    def _clip(self, stage: Stage, generator: torch.Generator) -> RepairBatch:
        for _ in range(20):
            ref = self.refs[int(torch.randint(len(self.refs), (), generator=generator))]
            try:
                pair = load_pair(ref)
            except ShardError as error:
                log.warning("%s; another pair is taken", error)
                continue
            pair = window(pair, stage.frames, stage.height, stage.width, generator)
            pair = augment(pair, generator) if self.augmented else pair
            return network_pair(pair, self.photo_size, self.fill_holes)
        raise UserError("20 pairs in a row could not be read; make them again with genfusion-make-pairs")


def find_pairs(folder: Path) -> list[ClipRef]:
    """All readable pairs of a folder of shards. Raises UserError if there are none."""
    refs = build_index(folder) if folder.is_dir() else []
    if not refs:
        raise UserError(f"there are no pairs in {folder}; make some with genfusion-make-pairs --output {folder}")
    return refs


def without_easy(refs: list[ClipRef], most_psnr: float) -> list[ClipRef]:
    """The pairs whose rendering is not nearer to the truth than `most_psnr` dB; broken ones stay, to be named later."""

    def is_hard(ref: ClipRef) -> bool:
        try:
            pair = load_pair(ref)
        except ShardError:
            return True
        error = (pair.render_rgb.float() - pair.target_rgb.float()).square().mean() / 255**2
        return float(-10 * torch.log10(error.clamp_min(1e-10))) <= most_psnr

    if most_psnr >= 100:
        return refs
    kept = [ref for ref in track(refs, "looking for pairs with something to repair", transient=True) if is_hard(ref)]
    log.info("%d of %d pairs are worth repairing", len(kept), len(refs))
    if not kept:
        raise UserError(f"all pairs are rendered at more than {most_psnr} dB; raise most-psnr, or make harder pairs")
    return kept


def train(
    task: Task,
    config: RunConfig,
    batches: StepBatches,
    validate: Callable[[dict[str, Tensor], SummaryWriter | None, int], None] | None = None,
    stop_after: int | None = None,
) -> TrainState:
    """Run to the end of the stages, from the newest checkpoint in `config.output`.

    Args:
        task: the networks and their loss.
        batches: see `StepBatches`.
        validate: called with the average of the weights, TensorBoard's writer and the step.
        stop_after: leave after this step although more follow, as if killed after a checkpoint (for tests).

    Returns:
        The state at the end; its `average` is what should be kept.
    """
    precision = config.mixed_precision
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    batches.process = accelerator.process_index
    networks = task.networks.train().requires_grad_(True)
    trained = [p for p in networks.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    folder = config.output / "checkpoints"
    state = TrainState(networks, optimizer, average_of(networks))
    if found := resume_latest(state, folder):
        log.info("continuing from %s", found)
    model, prepared = accelerator.prepare(networks, optimizer)
    state.average = {name: value.to(accelerator.device) for name, value in state.average.items()}
    main = accelerator.is_main_process
    writer = SummaryWriter(str(config.output / "tensorboard")) if main else None
    total = total_steps(batches.stages)
    first = state.step
    end = total if stop_after is None else min(stop_after, total)
    with _progress(disable=not main) as progress:
        bar = progress.add_task("training", total=total, completed=first)
        for batch in _loaded(batches, first, end, config.workers):
            logs = _step(task, model, accelerator, prepared, state, config, batch, total)
            if writer is not None:
                progress.update(bar, completed=state.step, description=_shown(logs))
                if state.step % config.log_every == 0:
                    for name, value in logs.items():
                        writer.add_scalar(f"train/{name}", value, state.step)
            if state.step % config.save_every == 0 or state.step == total:
                if main:
                    state.save(folder)
                accelerator.wait_for_everyone()
            if validate is not None and main and (state.step % config.validate_every == 0 or state.step == total):
                validate(state.average, writer, state.step)
    if writer is not None:
        writer.close()
    return state


def _step(
    task: Task,
    model: nn.Module,
    accelerator: Accelerator,
    optimizer: Any,
    state: TrainState,
    config: RunConfig,
    batch: RepairBatch,
    total: int,
) -> dict[str, float]:
    """One step; where loss or gradient are not finite on any process, nothing changes but the counters."""
    rate = learning_rate(state.step, total, config.learning_rate, config.warmup, config.schedule)
    for group in optimizer.param_groups:
        group["lr"] = rate
    generator = generator_of(config.seed, "noise", state.step, accelerator.process_index)
    with accelerator.autocast():
        loss, logs = task.loss(model, batch.to(accelerator.device), generator)
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
    finite = torch.isfinite(loss.detach()) & torch.isfinite(torch.as_tensor(norm, device=loss.device))
    if bool(accelerator.reduce(finite.float(), reduction="mean") >= 1):  # pyright: ignore[reportOperatorIssue]
        optimizer.step()
        state.update_average(ema_decay(state.step - state.skipped, config.ema))
    else:
        state.skipped += 1
        log.warning("step %d was skipped: its loss or gradient is not finite", state.step)
    optimizer.zero_grad()
    state.step += 1
    return {"loss": float(loss.detach()), **logs, "rate": rate, "skipped": float(state.skipped)}


def _loaded(batches: StepBatches, first: int, end: int, workers: int) -> Iterator[RepairBatch]:
    """Batches of the steps from `first` to `end`, read ahead by `workers` processes."""
    return iter(DataLoader(batches, batch_size=None, sampler=range(first, end), num_workers=workers))


def _shown(logs: dict[str, float]) -> str:
    return f"training  loss {logs['loss']:.4f}"


def _progress(disable: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, disable=disable)
