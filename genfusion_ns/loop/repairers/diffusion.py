"""The bundled video model behind the repairer socket: loaded at the first clip, off the device between rounds."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genfusion_ns.errors import UserError
from genfusion_ns.loop.repairers.base import RepairedClip, RGBDClip
from genfusion_ns.seeding import generator

if TYPE_CHECKING:
    from diffusion.memory.memory_plan import MemoryPlan
    from diffusion.pipeline import RGBDVideoRepairPipeline

log = logging.getLogger(__name__)

DRAWING = ("unet", "vae", "resampler")
"""Networks that are not needed where frames are only fused."""
SHARE_OF_FREE = 0.9
"""Of the free memory as much is planned with; the rest is lost between the allocator's blocks."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DiffusionRepairer:
    """`diffusion.pipeline.RGBDVideoRepairPipeline` as a repairer.

    Args:
        weights: folder, name of bundled weights, or hub id.
        steps, guidance: of the sampler; None = what the weights advise.
        memory: budget on the device, such as "12GiB"; empty = what is free on a GPU, as much as it takes on a CPU.
        dtype: "auto" = float32 on a CPU; on a GPU float16 for weights of the official layout, which are sampled so, and
            for GPUs whose kernels lack bfloat16, else bfloat16.
        device: where it computes.
        announce: told the memory plan of each size of clips before the first of them is repaired.
    """

    name = "diffusion"

    def __init__(
        self,
        weights: str,
        steps: int | None = None,
        guidance: float | None = None,
        memory: str = "",
        dtype: str = "auto",
        device: torch.device | str = "cpu",
        announce: Callable[[str], Any] = log.info,
    ) -> None:
        self.weights, self.memory, self.announce = weights, memory, announce
        self.device = torch.device(device)
        self.dtype = _DTYPES.get(dtype)
        self.options = {"num_inference_steps": steps, "guidance_scale": guidance}
        self.fingerprint = ""
        self._pipeline: RGBDVideoRepairPipeline | None = None
        self._plans: dict[tuple[int, ...], MemoryPlan] = {}
        self._offloads = False

    def check_files(self) -> None:
        """Look for the weights, and compare them with their networks; reads headers only.

        Raises:
            UserError: no such weights, they are broken, or cannot do without sampling what is asked for.
        """
        from diffusion.errors import UserError as DiffusionError
        from diffusion.loading import check_folder
        from diffusion.memory.blueprint import read_blueprint

        try:
            folder = self._locate()
            check_folder(folder, set())
        except DiffusionError as error:
            raise UserError(f"repairer 'diffusion': {error}") from error
        if self.options["num_inference_steps"] == 0 and "fusion" not in read_blueprint(folder).modules:
            raise UserError(
                f"loop.diffusion.steps is 0, which only fuses what photos show, and {self.weights} has no network for "
                "that; expected 1 or more."
            )

    def repair(self, clip: RGBDClip, reference: Tensor) -> RepairedClip:
        """See `Repairer.repair`. Noise follows from `clip.seed`; a clip that is too long for the memory is repaired in
        parts.

        Raises:
            UserError: no such weights, or they do not fit the memory budget.
        """
        from diffusion.errors import UserError as DiffusionError
        from diffusion.inputs.clips import windows

        try:
            pipeline, plan = self._ready(clip)
            outputs = []
            for start, first_new in windows(len(clip.rgb), plan.run.frames):
                part = slice(start, start + plan.run.frames)
                output = pipeline(
                    clip.rgb[part],
                    clip.depth[part],
                    clip.alpha[part].clamp(0, 1),
                    reference.clamp(0, 1),
                    None if clip.warped is None else clip.warped[part],
                    generator=generator(clip.seed, "diffusion"),
                    vae_chunk=plan.vae_chunk,
                    batch_guidance=plan.batch_guidance,
                    **self.options,
                )
                outputs.append({k: torch.as_tensor(v)[first_new - start :] for k, v in output.items() if v is not None})
        except DiffusionError as error:
            raise UserError(f"repairer 'diffusion': {error}") from error
        found = {name: torch.cat([output[name] for output in outputs]).to(clip.rgb) for name in outputs[0]}
        if "certainty" in found:
            maps = found["rgb"], found["disparity"], found["certainty"]
            return RepairedClip(*maps, metric=True, gain=found["gain"])
        # the model's farthest pixel is 0, which here means unknown
        disparity = found["disparity"] + 1e-3 if "disparity" in found else torch.zeros_like(clip.depth)
        return RepairedClip(found["rgb"], disparity, torch.ones_like(clip.alpha))

    def release(self) -> None:
        """Take the networks off the device; the next clip brings them back."""
        if self._pipeline is not None and not self._offloads:
            for network in self._networks():
                torch.nn.Module.to(network, "cpu")  # the pipeline's own `to` warns of float16 there
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _networks(self) -> list[torch.nn.Module]:
        components = self._pipeline.components.values() if self._pipeline is not None else ()
        return [part for part in components if isinstance(part, torch.nn.Module)]

    def _ready(self, clip: RGBDClip) -> tuple[RGBDVideoRepairPipeline, MemoryPlan]:
        """The networks, where they compute, and the plan for clips of this size."""
        size = tuple(clip.rgb.shape[:3])
        folder = self._locate()
        if size not in self._plans:
            self._plans[size] = self._make_plan(folder, size)
        plan = self._plans[size]
        if self._pipeline is None:
            self._pipeline = self._load(folder)
            self.fingerprint = fingerprint(folder)
        if plan.offload and not self._offloads and self.device.type != "cpu":
            self._pipeline.enable_model_cpu_offload(device=self.device)
            self._offloads = True
        if not self._offloads:
            for network in self._networks():
                torch.nn.Module.to(network, self.device)
        return self._pipeline, plan

    def _locate(self) -> Path:
        from diffusion.loading import locate_weights

        return locate_weights(self.weights)

    def _make_plan(self, folder: Path, size: tuple[int, ...]) -> MemoryPlan:
        from diffusion.memory.blueprint import read_blueprint
        from diffusion.memory.memory_plan import Run, parse_bytes, plan_memory

        blueprint = read_blueprint(folder)
        if "fusion" in blueprint.modules and self.options["num_inference_steps"] == 0:
            blueprint = read_blueprint(folder, skip=DRAWING)
        if self.dtype is None:
            self.dtype = automatic_dtype(self.device, official="image_encoder" in blueprint.modules)
        advised = blueprint.settings.get("default_guidance_scale", 3.2)
        if "unet" not in blueprint.modules:
            # nothing is sampled: guidance, as a preset may set it, has no meaning
            self.options["guidance_scale"] = advised = 1.0
        steps, scale = self.options["num_inference_steps"], self.options["guidance_scale"]
        frames, height, width = size
        run = Run(
            frames,
            height,
            width,
            dtype=self.dtype,
            steps=int(steps or blueprint.settings.get("default_steps", 25)),
            guidance=(advised if scale is None else scale) != 1.0,
        )
        budget = parse_bytes(self.memory) if self.memory else self._free_memory()
        plan = plan_memory(blueprint, run, budget, shorten=True)
        self.announce(plan.summary)
        if plan.shortened:
            self.announce(plan.shortened)
        if plan.fits is False:
            self._complain(plan)
        return plan

    def _complain(self, plan: MemoryPlan) -> None:
        """Refuse a plan beyond the budget that a user set; beyond what is free now, only warn: it may still go well."""
        run = plan.run
        problem = (
            f"repairing {run.frames} frames of {run.width} x {run.height} takes {plan.peak / 2**20:,.0f} MiB even with "
            f"modules moved off between uses; the budget is {self.memory or 'what is free now'}. Lower loop.max-side "
            "or loop.clip-length, or raise loop.diffusion.memory."
        )
        if self.memory:
            raise UserError(problem)
        log.warning(problem)

    def _free_memory(self) -> int | None:
        """Bytes that the networks can have beside the training's own tensors; None on a CPU. The networks are not yet
        on the device, or have been taken off after the last round."""
        if self.device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(self.device)
        held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        resident = sum(p.numel() * p.element_size() for n in self._networks() for p in n.parameters() if p.is_cuda)
        return int(SHARE_OF_FREE * (free + held + resident))

    def _load(self, folder: Path) -> RGBDVideoRepairPipeline:
        from diffusion.pipeline import RGBDVideoRepairPipeline

        left_out = dict.fromkeys(DRAWING if self.options["num_inference_steps"] == 0 else ())
        pipeline = RGBDVideoRepairPipeline.from_pretrained(folder, torch_dtype=self.dtype, **left_out)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def automatic_dtype(device: torch.device, official: bool) -> torch.dtype:
    """The precision that weights compute in unless told otherwise."""
    if device.type != "cuda":
        return torch.float32
    # Turing and older emulate bfloat16, slower than float32
    has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if has_bfloat16 and not official else torch.float16


def fingerprint(folder: Path) -> str:
    """12 hexadecimal digits that follow from the content of all weight files of a pipeline folder."""
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
