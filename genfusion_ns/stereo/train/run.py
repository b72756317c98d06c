"""The training loop of the stereo network: exact resume, validation on scenes of other seeds, one page to read."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffusion.train.checkpoint import TrainState, average_of, resume_latest
from diffusion.train.losses import ema_decay, learning_rate
from genfusion_ns.errors import UserError
from genfusion_ns.stereo.network import StereoNetwork
from genfusion_ns.stereo.train.batches import SIZES, SMALL_SIZES, make_batch
from genfusion_ns.stereo.train.losses import stereo_loss

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StereoTrainConfig:
    """Train the stereo network on files that `genfusion-train-stereo scenes` wrote."""

    scenes: Path = Path("stereo/scenes")
    """Folder of training scenes; files that appear while the run goes on are taken up."""
    val_scenes: Path | None = None
    """Folder of scenes of other seeds for validation."""
    output: Path = Path("stereo/run")
    """Where checkpoints, the log and the weights go; a run found here is continued."""
    steps: int = 30_000
    """Steps of the run; the learning rate follows a cosine over them."""
    batch: int = 4
    """Photos per step."""
    small_steps: int = 6000
    """So many steps come first with photos of half the size, and twice as many of them."""
    learning_rate: float = 8e-4
    """Of AdamW, after a warm-up of 200 steps."""
    seed: int = 0
    """Batches are functions of it and the step."""
    threads: int = 1
    """CPU threads."""
    capture_share: float = 0.25
    """Share of the batches that come from captures (files named capture_*)."""
    save_every: int = 250
    """Steps between checkpoints."""
    stop_after: int | None = None
    """Leave after this step although more follow."""


def train(config: StereoTrainConfig) -> StereoNetwork:
    """Run to the end, from the newest checkpoint in `config.output`; returns the network with averaged weights."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = StereoNetwork().to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    state = TrainState(network, optimizer, average_of(network))
    if found := resume_latest(state, config.output / "checkpoints"):
        log.info("continuing from %s", found)
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "config.json").write_text(json.dumps(asdict(config), default=str, indent=1))
    end = config.steps if config.stop_after is None else min(config.stop_after, config.steps)
    sums: dict[str, float] = {}
    began = time.monotonic()
    rendered, captured = _files(config.scenes)
    while state.step < end:
        if state.step % 100 == 0:
            rendered, captured = _files(config.scenes)
        for name, value in _step(state, config, rendered, captured, device).items():
            sums[name] = sums.get(name, 0.0) + value
        if state.step % 100 == 0:
            means = {name: round(value / 100, 4) for name, value in sums.items()}
            _write_line(config.output, {"step": state.step, "seconds": round(time.monotonic() - began), **means})
            sums = {}
        if state.step % config.save_every == 0 or state.step == end:
            state.save(config.output / "checkpoints")
        if state.step % 1000 == 0 or state.step == end:
            _keep(state, config)
    network.load_state_dict(state.average)
    return network


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    files = sorted(folder.glob("*.safetensors"))
    captured = [file for file in files if file.name.startswith("capture_")]
    rendered = [file for file in files if file not in captured]
    if not rendered:
        raise UserError(f"{folder} holds no scenes; make some with genfusion-train-stereo scenes --output {folder}")
    return rendered, captured


def _step(
    state: TrainState,
    config: StereoTrainConfig,
    rendered: Sequence[Path],
    captured: Sequence[Path],
    device: torch.device,
) -> dict[str, float]:
    """One step; where the loss or the gradient is not finite, nothing changes but the counters."""
    rate = learning_rate(state.step, config.steps, config.learning_rate, 200, "cosine")
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    draw = torch.Generator().manual_seed(config.seed * 1_000_003 + state.step)
    real = bool(captured) and float(torch.rand((), generator=draw)) < config.capture_share
    small = state.step < config.small_steps
    size, sizes = (2 * config.batch, SMALL_SIZES) if small else (config.batch, SIZES)
    batch = make_batch(captured if real else rendered, config.seed, state.step, size, sizes)
    batch = type(batch)(*(part.to(device) for part in batch))
    output = state.model(batch.photo, batch.sources, batch.projections, batch.nearest, batch.tracks)
    loss, logs = stereo_loss(output, batch)
    state.optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    if bool(torch.isfinite(loss) & torch.isfinite(norm)):
        state.optimizer.step()
        state.update_average(ema_decay(state.step - state.skipped, 0.999))
    else:
        state.skipped += 1
        log.warning("step %d was skipped: its loss or gradient is not finite", state.step)
    state.step += 1
    return {"loss": float(loss.detach()), **logs}


@torch.no_grad()
def _keep(state: TrainState, config: StereoTrainConfig) -> None:
    """The averaged weights as float16, and their errors on the validation scenes."""
    network = StereoNetwork()
    network.load_state_dict({name: value.cpu() for name, value in state.average.items()})
    weights = {name: value.half() for name, value in network.state_dict().items()}
    save_file(weights, config.output / "stereo.safetensors", {"step": str(state.step)})
    if config.val_scenes is not None:
        _write_line(config.output, {"step": state.step, "validation": validation(network.eval(), config.val_scenes)})


@torch.no_grad()
def validation(network: StereoNetwork, folder: Path, batches: int = 24) -> dict[str, float]:
    """Means over fixed batches of the scenes in a folder."""
    files = sorted(folder.glob("*.safetensors"))
    sums: dict[str, float] = {}
    for index in range(batches):
        batch = make_batch(files, 99, index)
        output = network(batch.photo, batch.sources, batch.projections, batch.nearest, batch.tracks)
        loss, logs = stereo_loss(output, batch)
        for name, value in {"loss": float(loss), **logs}.items():
            sums[name] = sums.get(name, 0.0) + value / batches
    return {name: round(value, 4) for name, value in sums.items()}


def _write_line(output: Path, facts: dict[str, object]) -> None:
    with open(output / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")
