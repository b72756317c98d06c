"""The training of the stereo network: batches, validation on scenes of other seeds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion.train.checkpoint import TrainState, average_of
from diffusion.train.steps import StepsConfig, train_steps
from genfusion_ns.errors import UserError
from genfusion_ns.stereo.estimator import load_network
from genfusion_ns.stereo.network import StereoNetwork
from genfusion_ns.stereo.train.batches import SIZES, SMALL_SIZES, StereoBatch, make_batch
from genfusion_ns.stereo.train.depth_loss import stereo_loss


@dataclass(frozen=True)
class StereoTrainConfig(StepsConfig):
    """Train the stereo network on files that `genfusion-train-stereo scenes` wrote."""

    scenes: Path = Path("stereo/scenes")
    """Folder of training scenes; files that appear while the run goes on are taken up."""
    val_scenes: Path | None = None
    """Folder of scenes of other seeds for validation."""
    start: Path | None = None
    """Weights (stereo.safetensors) of an earlier run to begin with; None = random ones."""
    batch: int = 4
    """Photos per step."""
    learning_rate: float = 8e-4
    """Of AdamW, after a warm-up of 200 steps."""
    small_steps: int = 6000
    """So many steps come first with photos of half the size, and twice as many of them."""
    capture_share: float = 0.25
    """Share of the batches that come from captures (files named capture_*)."""


def train(config: StereoTrainConfig) -> StereoNetwork:
    """Run to the end, from the newest checkpoint in `config.output`; returns the network with averaged weights."""
    _files(config.scenes, 0)
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = (StereoNetwork() if config.start is None else load_network(config.start)).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    state = TrainState(network, optimizer, average_of(network))

    def make(step: int) -> StereoBatch:
        return batch_of(step, config, *_files(config.scenes, step // 100))

    def loss(step: int, batch: StereoBatch) -> tuple[Tensor, dict[str, Tensor]]:
        batch = batch.to(device)
        output = network(batch.photo, batch.sources, batch.projections, batch.nearest, batch.tracks)
        return stereo_loss(output, batch)

    train_steps(state, config, make, loss, lambda: _keep(state, config))
    network.load_state_dict(state.average)
    return network


@lru_cache(maxsize=1)
def _files(folder: Path, look: int) -> tuple[list[Path], list[Path]]:
    """Rendered and captured scenes in a folder, which is looked at anew whenever `look` changes."""
    files = sorted(folder.glob("*.safetensors"))
    captured = [file for file in files if file.name.startswith("capture_")]
    rendered = [file for file in files if file not in captured]
    if not rendered:
        raise UserError(f"{folder} holds no scenes; make some with genfusion-train-stereo scenes --output {folder}")
    return rendered, captured


def batch_of(step: int, config: StereoTrainConfig, rendered: Sequence[Path], captured: Sequence[Path]) -> StereoBatch:
    """The batch of a step: of captures now and then, small ones first."""
    draw = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    real = bool(captured) and float(torch.rand((), generator=draw)) < config.capture_share
    small = step < config.small_steps
    size, sizes = (2 * config.batch, SMALL_SIZES) if small else (config.batch, SIZES)
    return make_batch(captured if real else rendered, config.seed, step, size, sizes)


@torch.no_grad()
def _keep(state: TrainState, config: StereoTrainConfig) -> dict[str, float]:
    """The averaged weights as float16, and their errors on the validation scenes."""
    weights = {name: value.half().cpu() for name, value in state.average.items()}
    save_file(weights, config.output / "stereo.safetensors", {"step": str(state.step)})
    if config.val_scenes is None:
        return {}
    network = copy.deepcopy(state.model)
    network.load_state_dict(state.average)
    return validation(network.eval(), config.val_scenes)


@torch.no_grad()
def validation(network: nn.Module, folder: Path, batches: int = 24) -> dict[str, float]:
    """Means over fixed batches of the scenes in a folder."""
    files = sorted(folder.glob("*.safetensors"))
    device = next(network.parameters()).device
    sums: dict[str, float] = {}
    for index in range(batches):
        batch = make_batch(files, 99, index).to(device)
        output = network(batch.photo, batch.sources, batch.projections, batch.nearest, batch.tracks)
        loss, logs = stereo_loss(output, batch)
        for name, value in {"loss": loss, **logs}.items():
            sums[name] = sums.get(name, 0.0) + float(value) / batches
    return {name: round(value, 4) for name, value in sums.items()}
