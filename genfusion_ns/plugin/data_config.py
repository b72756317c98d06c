"""What a user can set about photos, first splats and the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig

from genfusion_ns.bounds import ANY, COUNT, POSITIVE, Bound, Bounds
from genfusion_ns.data.points import PointsMode
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.plugin.dataparser import GenFusionDataParserConfig


def _datamanager() -> type:
    from genfusion_ns.plugin.datamanager import GenFusionDataManager  # which takes this configuration

    return GenFusionDataManager


@dataclass
class GenFusionDataManagerConfig(FullImageDatamanagerConfig):
    """Photos, what of them is seen, where the first splats come from, and the loop."""

    _target: type = field(default_factory=_datamanager)
    """The datamanager class."""
    dataparser: AnnotatedDataParserUnion = field(default_factory=GenFusionDataParserConfig)
    """Who reads the scene; any of Nerfstudio's works, ours adds sparse views."""
    cache_images_type: Literal["uint8", "float32"] = "uint8"
    """How photos are kept: uint8 takes a quarter of the memory, and each step converts the photo that it shows."""
    max_image_side: int | None = 1600
    """Longest side of whole photos in training and evaluation, in pixels; a mask's windows are reduced by the same
    factor. Time grows with its square; 1,600 is also Nerfstudio's limit."""
    mask: Literal["none", "fixed", "moving"] = "none"
    """Train on a quarter of each photo: fixed = the top-left quadrant, as the paper's diffusion data; moving = the
    wandering window of the paper's evaluation. Evaluation always sees full photos."""
    initial_points: PointsMode = "depth"
    """Where the first splats lie: depth = on the surfaces that the training photos' depth shows; tracks = what the
    training photos alone can triangulate, completed by samples in their frusta; official = the official code's rule,
    which leaks geometry from the held-out photos; all = the scene's whole point cloud; random = samples in the frusta
    only."""
    depth_estimator: str = "stereo"
    """Who finds the photos' depth: stereo = the bundled network; transformers:SOURCE and depth-anything-3:SOURCE with a
    hub id or a folder, see docs/depth.md."""
    depth_side: int = 320
    """Longest side of the photos that depth is found for, in pixels."""
    depth_folder: Path | None = None
    """Where the photos' depth is kept and looked for; None = the run's folder."""
    max_seed_points: int = 100_000
    """How many splats to begin with; fewer measured points are completed by samples, more are thinned at random."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """When novel views are generated, by whom, and how much they count."""
    reference_iterations: int = 7000
    """Length of the run that the loop's step numbers refer to; they are scaled with --max-num-iterations."""
    seed: int = 42
    """The order of views and all samples follow from (seed, step)."""

    BOUNDS: ClassVar[Bounds] = {
        "max_image_side": Bound(16),
        "depth_side": Bound(32),
        "max_seed_points": COUNT,
        "reference_iterations": COUNT,
        "seed": ANY,
        "camera_res_scale_factor": POSITIVE,
        "eval_num_images_to_sample_from": Bound(-1),
        "eval_num_times_to_repeat_images": Bound(-1),
        "eval_image_indices": Bound(0),
        "max_thread_workers": COUNT,
        "train_cameras_sampling_seed": ANY,
        "fps_reset_every": COUNT,
    }
