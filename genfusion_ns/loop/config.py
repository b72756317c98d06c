"""What a user can set about the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from genfusion_ns.bounds import COUNT, NATURAL, Bound, Bounds, check_bounds
from genfusion_ns.camera_path import read_camera_path
from genfusion_ns.errors import UserError
from genfusion_ns.loop.repairers.base import NeedsFiles, Repairer, create_repairer, repairer_names
from genfusion_ns.schedule import generated_weight, is_round_due, round_steps, scaled

Trajectory = Literal["interpolate", "orbit", "captured", "path"]


@dataclass
class DiffusionConfig:
    """The bundled video model, where the repairer is 'diffusion'."""

    weights: str = "lite"
    """Folder, name of bundled weights, or hub id."""
    steps: int | None = None
    """Steps of the sampler; fewer are faster and blurrier. None = what the weights advise (GenFusion: 25, the bundled
    ones: 4); 0 = only fuse what photos show. What is drawn where nothing was seen gave masked photos 0.1 dB at the
    same LPIPS (llff_fern, fox, two seeds), and is nothing where few whole photos leave no hole."""
    guidance: float | None = None
    """Scale of classifier-free guidance; 1 switches it off and halves the work. None = what the weights advise."""
    memory: str = ""
    """Budget on the device, such as 12GiB: chunks and offloading are chosen to fit. Empty = what is free on a GPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the networks; auto = on CUDA bfloat16, or float16 for official weights (sampled so) and for GPUs
    older than Ampere; float32 elsewhere."""

    BOUNDS: ClassVar[Bounds] = {"steps": NATURAL, "guidance": NATURAL}


@dataclass
class LoopConfig:
    """When novel views are made, which, and how much they count."""

    repairer: str = "diffusion"
    """Who repairs the renders: 'diffusion' is the video model, 'classical' fills holes and smooths, 'identity' gives
    them back unchanged (neither needs weights); other packages may register more. 'classical' is quicker, and repairs
    single frames worse (the card of the bundled weights)."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """Settings of the repairer 'diffusion'."""
    start: int = 4000
    """Steps before the first round. GenFusion's warm-up is 1000 of 7000: against it 4000 was worth nothing in PSNR and
    cost 1 to 3 % of LPIPS (llff_fern and fox, 3 and 6 photos, two seeds), in a third to two thirds of the time."""
    every: int = 1000
    """Steps between rounds; GenFusion's 1000. 0 switches the loop off. More rounds cost repairing time."""
    until: int = 6500
    """Generated views count only before this step; the rest of the run polishes on captured views alone, with those
    that judged the rounds."""
    weight: float = 0.4
    """Largest weight of generated views against captured ones, half-way between start and until; the paper's 1.0. With
    3 photos of llff_fern 0.4 had a lower LPIPS than 1.0 (.089, .100; one seed)."""
    depth_weight: float = 0.0
    """Weight of the disparity term, free of scale and shift, in the loss on generated views; GenFusion's 1.0, which its
    presets keep. It holds surfaces where they were when the view was made: against 0, 0.1 raised the LPIPS of
    llff_fern with 3 and 6 photos and of fox with 6 by 2 % each, and lowered that of fox with 3 by 1 % (one seed)."""
    trajectories: tuple[Trajectory, ...] = ("interpolate", "orbit")
    """Camera paths of each round: interpolate = between captured views; orbit = around the scene, or before it where
    all views come from one side; captured = at the captured views themselves, at full frame (for masked photos); path =
    the one in camera-path."""
    camera_path: Path | None = None
    """A camera path saved from Nerfstudio's viewer in a run of the same scene (same data and dataparser settings), for
    the trajectory 'path'."""
    frames: int = 32
    """Poses on each path; more cover the scene more densely and take longer to repair."""
    clip_length: int = 16
    """Frames that are repaired together; what GenFusion's video model was trained for."""
    expand: int = 10_000
    """Most splats that a round adds where repaired frames show surfaces that are missing; 0 adds none, and new content
    can only grow out of what is there. (The official code adds up to 98,304 a round, in one mode only.)"""
    hold_out_from: int = 12
    """From so many captured views on, one (from twice as many, two) does not train before until, to judge the rounds;
    with fewer, rounds are judged only by whether their clips contradict the photos. 0 never holds any out."""
    max_side: int = 960
    """Generated views are at most this wide or high, in pixels; GenFusion's 960 x 512."""
    pool: int = 256
    """Most generated views kept; beyond it the lightest leave, the oldest first. 256 of 960 x 512 take 0.8 GB."""

    BOUNDS: ClassVar[Bounds] = {
        "start": NATURAL,
        "every": NATURAL,
        "until": NATURAL,
        "weight": NATURAL,
        "depth_weight": NATURAL,
        "frames": COUNT,
        "clip_length": COUNT,
        "expand": NATURAL,
        "hold_out_from": NATURAL,
        "max_side": Bound(16),
        "pool": COUNT,
    }

    def scaled_to(self, max_iterations: int, reference: int = 7000) -> LoopConfig:
        """The same loop for a run of `max_iterations` steps, its step numbers stretched from `reference`."""
        start, every, until = (scaled(k, max_iterations, reference) for k in (self.start, self.every, self.until))
        return replace(self, start=start, every=every, until=until)

    def is_round_due(self, k: int, max_iterations: int) -> bool:
        """Whether a round follows step k."""
        return is_round_due(k, self.start, self.every, self.until, max_iterations)

    def generated_weight(self, k: int) -> float:
        """lambda(k), 0 at and outside of start and until."""
        return generated_weight(k, self.start, self.until, self.weight) if self.every else 0.0

    def make_repairer(
        self, device: torch.device | str = "cpu", announce: Callable[[str], Any] | None = None
    ) -> Repairer:
        """The repairer that is named here.

        Args:
            device: where the video model computes.
            announce: told the video model's memory plan, before its weights are read.

        Raises:
            UserError: unknown name, or its packages are not installed.
        """
        if self.repairer != "diffusion":
            return create_repairer(self.repairer)
        told = {} if announce is None else {"announce": announce}
        return create_repairer(self.repairer, **asdict(self.diffusion), device=device, **told)

    def check_files(self, max_iterations: int) -> None:
        """Look for what the rounds of a run of `max_iterations` will read, so that a mistake shows before the warm-up.

        Raises:
            UserError: the camera path, or the repairer's weights, are missing or broken.
        """
        if not round_steps(self.start, self.every, self.until, max_iterations):
            return
        if "path" in self.trajectories and self.camera_path is not None:
            read_camera_path(self.camera_path)
        repairer = self.make_repairer()
        if isinstance(repairer, NeedsFiles):
            repairer.check_files()

    def check(self) -> None:
        """Look for settings that cannot work.

        Raises:
            UserError: naming the setting, what it is, and what it may be.
        """
        check_bounds(self, "loop.")
        if "path" in self.trajectories and self.camera_path is None:
            raise UserError(
                "loop.trajectories names 'path', but loop.camera-path is not set; expected the JSON file of a camera "
                "path saved from the viewer (or made by genfusion-camera-path)."
            )
        if self.repairer not in repairer_names():
            raise UserError(f"loop.repairer is '{self.repairer}'; expected one of: {', '.join(repairer_names())}.")
