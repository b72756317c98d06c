"""Settings of the training runs; each field's sentence becomes its help on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from diffusion.errors import UserError


@dataclass(frozen=True)
class Stage:
    """A part of a run with clips of one size; small clips first make many cheap steps."""

    steps: int
    """Steps that the stage lasts."""
    frames: int = 16
    """Frames per clip; windows of longer clips are drawn at random."""
    height: int = 96
    """Height of the windows in pixels; a multiple of the network's size."""
    width: int = 160
    """Width of the windows in pixels; a multiple of the network's size."""
    batch: int = 1
    """Clips per step and process."""


@dataclass(frozen=True)
class RunConfig:
    """What all runs share."""

    pairs: Path = Path("pairs")
    """Folder of shards that genfusion-make-pairs wrote."""
    val_pairs: Path | None = None
    """Folder of shards that no training step sees, for validation; without it there is none."""
    output: Path = Path("runs/training")
    """Where checkpoints, images, TensorBoard's events and the finished weights go; a run found here is continued."""
    seed: int = 0
    """Determines the order of the data, augmentation, noise and timesteps, each as a function of seed and step."""
    learning_rate: float = 3e-4
    """Of AdamW after warm-up; found stable for the lite sizes at batches of one clip."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Cosine falls to a twentieth by the last step; constant stays, for runs of unknown length."""
    warmup: int = 100
    """Steps over which the learning rate rises from 0; AdamW's first steps are badly scaled."""
    weight_decay: float = 0.01
    """Of AdamW; its customary default."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; larger ones are scaled down to it. Customary for diffusion models."""
    ema: float = 0.999
    """Decay of the average of the weights that is validated and shipped; it warms up, so that short runs gain too."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """bf16 takes 0.7 times the time on a CPU with the instructions for it, and less than half on a GPU."""
    workers: int = 0
    """Processes that read shards ahead; 0 reads in between steps, which is enough on a CPU."""
    log_every: int = 20
    """Steps between lines in TensorBoard."""
    validate_every: int = 500
    """Steps between validations; the last step is always followed by one."""
    validation_clips: int = 12
    """Clips per validation, evenly spread over `val_pairs`."""
    save_every: int = 250
    """Steps between checkpoints, of which the last two are kept."""


@dataclass(frozen=True)
class VaeConfig(RunConfig):
    """Train the RGB-D autoencoder on rendered and true frames."""

    configuration: str = "lite-small"
    """Sizes of the networks, see diffusion/configurations.py."""
    depth: bool = True
    """Off trains an autoencoder of colour alone, for comparison."""
    stages: tuple[Stage, ...] = (Stage(1500, frames=1, height=64, width=64, batch=16),)
    """Frames (of rendered and true clips alike) and windows per step; one frame per clip shows most variety."""
    kl_weight: float = 1e-6
    """Of the divergence from a normal distribution; Stable Diffusion's 1e-6 keeps the latent near unit scale."""
    depth_weight: float = 0.5
    """Of the disparity's error against colour's; colour is three channels, and what is measured in the end."""


@dataclass(frozen=True)
class PipelineConfig(RunConfig):
    """What the runs that begin with a whole pipeline share."""

    start: str = "lite-small"
    """A configuration's name (random weights), or a folder, a bundled name or a hub id to fine-tune."""
    vae: Path | None = None
    """Folder of an autoencoder that the first run wrote; None = the one in `start`."""
    depth_weight: float = 0.25
    """Of the disparity's share in the error of frames."""
    evidence_dropout: float = 0.1
    """Share of the clips that come without what photos show, so that the pipeline works without it too."""
    augment: bool = True
    """Mirror, reverse and recolour clips at random."""


@dataclass(frozen=True)
class ChooserConfig(PipelineConfig):
    """Train the chooser alone: nothing is encoded or decoded, and a step takes a tenth of the denoiser's time."""

    stages: tuple[Stage, ...] = field(default_factory=lambda: (Stage(600, batch=2),))
    """Sizes of the clips over the run; whole clips, since the chooser looks at their averages."""
    learning_rate: float = 3e-3
    """Of AdamW after warm-up; a few thousand weights bear more than a large network."""
    depth_weight: float = 0.05
    """Of the disparity's share in the error of frames; less than the denoiser's, which draws what is chosen here."""
    evidence_dropout: float = 0.05
    """Share of the clips that come without what photos show; each takes from what is learnt about clips with it."""


@dataclass(frozen=True)
class RepairConfig(PipelineConfig):
    """Train the denoiser and the resampler, with the autoencoder frozen."""

    stages: tuple[Stage, ...] = field(default_factory=lambda: (Stage(1500, 8, 64, 96, batch=2), Stage(3000)))
    """Sizes of the clips over the run."""
    last_share: float = 1.0
    """Share of the clips at the last timestep, where v-prediction is the direct regression of the clean latent, which
    is all that a sampler of one step uses; the others are drawn evenly, for samplers of several. 0 is plain diffusion.
    """
    latent_weight: float = 1.0
    """Of v-prediction's error in the latent space; 0 where the network chooses between candidates, since its latent is
    then only what they lack."""
    pixel_weight: float = 1.0
    """Of the error of decoded frames, at steps at the last timestep; 0 trains in the latent space alone."""
    pixel_frames: int = 4
    """Frames per clip that are decoded for it; more cost time and memory."""
    train_decoder: bool = True
    """Let that error teach the autoencoder's decoder too: a residual model needs it to draw changes, not whole frames.
    Switched off for weights whose decoder is good already, as the official ones'."""
    relative: bool = True
    """Weigh each frame by how wrong its rendering is, so that the loss measures the gain in dB; without it holes, where
    errors are ten times larger, drown everything else."""
    condition_dropout: float = 0.05
    """Share of the clips whose photo is replaced by a grey one, which guidance needs; the paper's 0.05."""
    most_psnr: float = 100.0
    """Pairs whose rendering is nearer to the truth than this, in dB, are left out. 100 = all are used; with 26 a
    network learnt more about poor clips, and spoilt good ones."""


def stage_at(stages: tuple[Stage, ...], step: int) -> Stage:
    """The stage that a step (from 0) belongs to; steps after the last stage belong to it."""
    for stage in stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return stages[-1]


def total_steps(stages: tuple[Stage, ...]) -> int:
    """Steps of the whole run."""
    return sum(stage.steps for stage in stages)


def check_config(config: RunConfig, stages: tuple[Stage, ...], multiple: int) -> None:
    """Look for settings that cannot work.

    Args:
        multiple: height and width of windows must be multiples of this.

    Raises:
        UserError: naming the setting, what it is, and what it may be.
    """
    if not stages or any(min(s.steps, s.frames, s.height, s.width, s.batch) < 1 for s in stages):
        raise UserError(f"stages are {stages}; expected at least one, with all its numbers at least 1")
    for stage in stages:
        if stage.height % multiple or stage.width % multiple:
            raise UserError(
                f"a stage has windows of {stage.height} x {stage.width}; expected multiples of {multiple} for this "
                "network"
            )
    if not config.learning_rate > 0:
        raise UserError(f"learning-rate is {config.learning_rate}; expected a positive number")
    if not 0 <= config.ema < 1:
        raise UserError(f"ema is {config.ema}; expected a decay in [0, 1)")
    if min(config.save_every, config.log_every, config.validate_every) < 1:
        raise UserError("save-every, log-every and validate-every must be at least 1")
