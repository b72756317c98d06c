"""What `genfusion-repair` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class Repair:
    """Repair a clip of RGB-D renderings, given photos of the scene.

    The clip is a folder (rgb/, and optionally depth/, alpha/ and reference/, with one file per frame) or an .npz file
    (arrays rgb, depth, alpha, reference). Written are OUT/rgb, OUT/disparity, OUT/repaired.npz, OUT/side_by_side.png
    and OUT/side_by_side.mp4.
    """

    clip: Path
    """Folder or .npz file with the renderings; `diffusion.inputs.clips` describes both layouts."""
    out: Path
    """Folder to write into; it is made if it isn't there, and files of the same names are replaced."""
    reference: tuple[Path, ...] = ()
    """Photos of the scene, in addition to those in the clip; at least one is needed in all."""
    weights: str = "lite"
    """Folder of a pipeline, name of bundled weights, or hub id (owner/name)."""
    random_weights: str | None = None
    """Name of a configuration to fill with random weights: a smoke test, whose output is noise."""
    steps: int | None = None
    """Steps of the sampler; more are slower and seldom worse. Default: what the weights were made for."""
    guidance_scale: float | None = None
    """Pull towards the photos; 1 switches it off and halves the work. Default: what the weights were made for."""
    size: tuple[int, int] | None = None
    """Height and width to repair at; the frames are resized first. Default: the size of the frames."""
    window: int = 16
    """Frames that are repaired together; longer clips are cut. The networks were trained on 16."""
    seed: int = 0
    """Seed of the noise; the same seed, device and settings give the same frames."""
    device: str = "auto"
    """Where to compute: `cuda`, `cpu`, ...; `auto` takes CUDA if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the networks (the schedule stays in float32); `auto` is float32 on a CPU, else bfloat16."""
    memory_budget: str | None = None
    """Such as `8GiB`: the run is cut into pieces that fit, or refused. Default on CUDA: what is free."""
    plan_only: bool = False
    """Print the memory plan and stop, without reading any weights."""
