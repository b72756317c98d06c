"""The paper's three recipes by name: sparse views, masked photos, scene completion.

Values are those of GenFusion's published runs (its scripts where the paper is silent). Step numbers refer to the length
of the published run, 7,000 or 26,000, and are scaled with --max-num-iterations. Where ours differs:

* the distortion term is gsplat's, linear in distances, not the official squared one, so its weight is gsplat's 0.01;
* completion's lambda reaches 0 at the run's end, where the official schedule (until 30,000 of 26,000) is cut off at
  half weight;
* the densifier stops before the last fifth of a run, where the official masked one goes on to the last step;
* on generated views SSIM counts for half of the photo loss in all three (the paper: 0.5, 0.8, 0.2);
* opacities keep to 0.99 (`gaussians/edit.bound_opacities`);
* the terms that need a monocular depth of the training photos are absent; they were worth 0.02 dB.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.plugin.trainer import GenFusionTrainerConfig

SPARSE_STEPS = 7000
"""Length of the published runs on 3, 6 and 9 views, and on masked photos."""
COMPLETION_STEPS = 26_000
"""Length of the published scene completions."""


def sparse(config: GenFusionTrainerConfig) -> GenFusionTrainerConfig:
    """3, 6 or 9 views of Mip-NeRF 360: rounds every 1,000 steps, SSIM at half of the photo loss, few densifications."""
    _loop(config, start=1000, every=1000, until=7000, weight=1.0)
    # Both of the paper's kinds of path; together about the 85 poses of the official ring.
    _loop(config, trajectories=("interpolate", "orbit"), frames=43, depth_weight=1.0)
    _model(config, ssim_lambda=0.5, distortion_lambda=0.01, distortion_start=5000, normal_lambda=0.0)
    _densify(config, start=100, stop=5000, every=500, reset_every=3100)
    return _length(config, SPARSE_STEPS)


def masked(config: GenFusionTrainerConfig) -> GenFusionTrainerConfig:
    """A moving quarter of each photo (DL3DV, Tanks and Temples): a longer warm-up, half the weight, the captured poses
    at full frame."""
    # No photo is held out to judge rounds: generated views count to the end, so it would never train.
    _loop(config, start=3000, every=1000, until=7000, weight=0.5, hold_out_from=0)
    _loop(config, trajectories=("captured",), depth_weight=1.0)
    _model(config, ssim_lambda=0.8, distortion_lambda=0.0, normal_lambda=0.0)
    _densify(config, start=1000, stop=15_000, every=100, reset_every=9000)
    config.pipeline.datamanager.mask = "moving"
    return _length(config, SPARSE_STEPS)


def completion(config: GenFusionTrainerConfig) -> GenFusionTrainerConfig:
    """All photos, and what lies beyond them: few, late rounds along an orbit (or loop.camera-path), weaker guidance."""
    _loop(config, start=5000, every=4000, until=COMPLETION_STEPS, weight=1.0, hold_out_from=0)
    _loop(config, trajectories=("orbit",), frames=48, depth_weight=1.0)
    loop = config.pipeline.datamanager.loop
    loop.diffusion = replace(loop.diffusion, guidance=2.2)
    _model(config, ssim_lambda=0.2, distortion_lambda=0.0, normal_lambda=0.0)
    _densify(config, start=500, stop=12_000, every=100, reset_every=15_000)
    return _length(config, COMPLETION_STEPS)


PRESETS = {"sparse": sparse, "masked": masked, "completion": completion}
"""By the paper's names; `ns-train` lists them as genfusion-sparse, genfusion-masked and genfusion-completion."""


def _length(config: GenFusionTrainerConfig, steps: int) -> GenFusionTrainerConfig:
    """The preset's run as long, against the base configuration's, as the published one against 7,000 steps."""
    config.max_num_iterations = round(config.max_num_iterations * steps / SPARSE_STEPS)
    config.pipeline.datamanager.reference_iterations = config.pipeline.model.reference_iterations = steps
    return config


def _loop(config: GenFusionTrainerConfig, **values: Any) -> None:
    manager = config.pipeline.datamanager
    loop: LoopConfig = replace(manager.loop, **values)
    manager.loop = loop


def _model(config: GenFusionTrainerConfig, **values: Any) -> None:
    # the papers' runs have no cost of opacity
    config.pipeline.model = replace(config.pipeline.model, opacity_lambda=0.0, **values)


def _densify(config: GenFusionTrainerConfig, **values: Any) -> None:
    # 3DGS's and the official code's bound of huge splats
    config.pipeline.model.densifier = replace(config.pipeline.model.densifier, prune_scale3d=0.1, **values)
