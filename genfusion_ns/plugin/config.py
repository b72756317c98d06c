"""The methods that `ns-train` lists.

`genfusion` is the GPU preset where there is CUDA and the CPU preset where there is none; `genfusion-gpu` and
`genfusion-cpu` name them outright, and the former refuses to run without CUDA. `genfusion-sparse`, `genfusion-masked`
and `genfusion-completion` are the paper's recipes (plugin/presets.py) at the size that suits the machine. Every value
can be overridden on the command line.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.plugins.types import MethodSpecification
from nerfstudio.utils.rich_utils import CONSOLE

from genfusion_ns.gaussians.densify_sparse import SparsityAwareDensifier
from genfusion_ns.gpu import unused_gpu
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.plugin import compat
from genfusion_ns.plugin.datamanager import GenFusionDataManagerConfig
from genfusion_ns.plugin.model import GenFusionModelConfig
from genfusion_ns.plugin.optimizers import gaussian_optimizers
from genfusion_ns.plugin.pipeline import GenFusionPipelineConfig
from genfusion_ns.plugin.presets import PRESETS
from genfusion_ns.plugin.trainer import GenFusionTrainerConfig

compat.apply()
if not torch.cuda.is_available() and (_unused := unused_gpu(torch.__version__, torch.version.cuda)):
    CONSOLE.print(f"[bold yellow]genfusion:[/] {_unused}", soft_wrap=True)

SHORT_RUN_DENSIFIER = SparsityAwareDensifier(start=500, stop=5000, every=100, reset_every=0)
"""The sparsity-aware densifier in the 7,000 steps of our presets (their `reference_iterations`). Opacities are never
reset: in 20,000 steps of the procedural room one reset cost 0.7 dB for thousands of steps (scripts/checks/long_run.py),
and with 3 photos it gained nothing on fox (18.16 and 18.18 dB, two seeds each) and 0.2 dB on llff_fern."""


def gpu_config(method_name: str) -> GenFusionTrainerConfig:
    """Full-size photos, 7,000 steps: the length of the official sparse and masked presets."""
    return _config(
        method_name,
        device="cuda",
        max_num_iterations=7000,
        datamanager=GenFusionDataManagerConfig(),
        densifier=replace(SHORT_RUN_DENSIFIER),
    )


def cpu_config(method_name: str) -> GenFusionTrainerConfig:
    """Small photos, few splats, 2,000 steps: minutes on two cores."""
    return _config(
        method_name,
        device="cpu",
        max_num_iterations=2000,
        datamanager=GenFusionDataManagerConfig(
            max_image_side=320, max_seed_points=10_000, loop=LoopConfig(max_side=320, expand=3000)
        ),
        densifier=replace(SHORT_RUN_DENSIFIER, max_gaussians=30_000),
    )


def _config(
    method_name: str,
    device: Literal["cpu", "cuda"],
    max_num_iterations: int,
    datamanager: GenFusionDataManagerConfig,
    densifier: SparsityAwareDensifier,
) -> GenFusionTrainerConfig:
    return GenFusionTrainerConfig(
        method_name=method_name,
        max_num_iterations=max_num_iterations,
        steps_per_save=1000,
        steps_per_eval_batch=0,
        steps_per_eval_image=500,
        steps_per_eval_all_images=0,
        mixed_precision=False,
        machine=MachineConfig(device_type=device),
        pipeline=GenFusionPipelineConfig(datamanager=datamanager, model=GenFusionModelConfig(densifier=densifier)),
        optimizers=gaussian_optimizers(),
        # 0 = every line stays; the default moves the cursor up over the lines that others have printed.
        logging=LoggingConfig(steps_per_log=50, local_writer=LocalWriterConfig(enable=True, max_log_size=0)),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15, websocket_host=compat.LOCAL),
        # "viewer" alone would switch evaluation off.
        vis="viewer+tensorboard",
    )


def paper_config(preset: Literal["sparse", "masked", "completion"]) -> GenFusionTrainerConfig:
    """One of the paper's recipes, at the size that suits the machine."""
    return PRESETS[preset](_automatic(f"genfusion-{preset}"))


_automatic = gpu_config if torch.cuda.is_available() else cpu_config

genfusion = MethodSpecification(
    _automatic("genfusion"), "Too few photos to a clean 2DGS splat; the GPU preset with CUDA, the CPU preset without."
)
genfusion_gpu = MethodSpecification(gpu_config("genfusion-gpu"), "GenFusion's full-size preset, for a GPU.")
genfusion_cpu = MethodSpecification(
    cpu_config("genfusion-cpu"), "GenFusion's small preset for CPUs: minutes on two cores."
)
genfusion_sparse = MethodSpecification(paper_config("sparse"), "GenFusion's published recipe for 3, 6 or 9 views.")
genfusion_masked = MethodSpecification(
    paper_config("masked"), "GenFusion's published recipe for a moving quarter of each photo."
)
genfusion_completion = MethodSpecification(
    paper_config("completion"), "GenFusion's published recipe for completing a scene beyond its photos."
)
