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
from genfusion_ns.loop.plane_sweep import stacked
from genfusion_ns.loop.repair import RepairedClip, RGBDClip
from genfusion_ns.seeding import generator

if TYPE_CHECKING:
    from diffusion.memory_plan import MemoryPlan
    from diffusion.pipeline import RGBDVideoRepairPipeline

log = logging.getLogger(__name__)

SHARE_OF_FREE = 0.9
"""Of the free memory as much is planned with; the rest is lost between the allocator's blocks."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DiffusionRepairer:
    """`diffusion.pipeline.RGBDVideoRepairPipeline` as a repairer.

    Args:
        weights: folder, name of bundled weights, or hub id.
        steps, guidance: of the sampler; None = what the weights advise.
        strength: in (0, 1]; below 1 the sampler starts from the noised render, by opacity.
        invented: in [0, 1], confidence in what fills holes.
        shown: in [0, 1], share of the confidence that is left where a photo shows the surface or looks from near.
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
        strength: float = 1.0,
        invented: float = 0.3,
        shown: float = 0.05,
        memory: str = "",
        dtype: str = "auto",
        device: torch.device | str = "cpu",
        announce: Callable[[str], Any] = log.info,
    ) -> None:
        self.weights, self.memory, self.announce = weights, memory, announce
        self.invented, self.shown = invented, shown
        self.device = torch.device(device)
        self.dtype = _DTYPES.get(dtype)
        self.options = {"num_inference_steps": steps, "guidance_scale": guidance, "strength": strength}
        self.fingerprint = ""
        self._pipeline: RGBDVideoRepairPipeline | None = None
        self._plans: dict[tuple[int, ...], MemoryPlan] = {}
        self._offloads = False

    def check_files(self) -> None:
        """Look for the weights, and compare them with their networks; reads headers only.

        Raises:
            UserError: no such weights, or they are broken.
        """
        from diffusion.errors import UserError as DiffusionError
        from diffusion.locate import check_folder

        try:
            check_folder(self._locate(), set())
        except DiffusionError as error:
            raise UserError(f"repairer 'diffusion': {error}") from error

    def repair(self, clip: RGBDClip, reference: Tensor) -> RepairedClip:
        """See `Repairer.repair`. Noise follows from `clip.seed`; holes are believed by `invented`. A clip that is too
        long for the memory is repaired in parts.

        Raises:
            UserError: no such weights, or they do not fit the memory budget.
        """
        from diffusion.clips import windows
        from diffusion.errors import UserError as DiffusionError

        try:
            pipeline, plan = self._ready(clip)
            evidence, outputs = _evidence(clip), []
            for start, first_new in windows(len(clip.rgb), plan.run.frames):
                part = slice(start, start + plan.run.frames)
                output = pipeline(
                    clip.rgb[part],
                    clip.depth[part],
                    clip.alpha[part].clamp(0, 1),
                    reference.clamp(0, 1),
                    None if evidence is None else evidence[part],
                    generator=generator(clip.seed, "diffusion"),
                    vae_chunk=plan.vae_chunk,
                    batch_guidance=plan.batch_guidance,
                    **self.options,
                )
                maps = (output.rgb,) if output.disparity is None else (output.rgb, output.disparity)
                outputs.append([torch.as_tensor(m)[first_new - start :] for m in maps])
        except DiffusionError as error:
            raise UserError(f"repairer 'diffusion': {error}") from error
        rgb, *disparities = [torch.cat(parts) for parts in zip(*outputs, strict=True)]
        # the model's farthest pixel is 0, which here means unknown
        disparity = disparities[0].to(clip.depth) + 1e-3 if disparities else torch.zeros_like(clip.depth)
        return RepairedClip(rgb.to(clip.rgb), disparity, self._confidence(clip))

    def _confidence(self, clip: RGBDClip) -> Tensor:
        """[T, H, W, 1]: less in holes, where nothing is known, and where photos show the surface, or look there from
        near: they teach it better, even where the surface is too uncertain to be recognised in them."""
        opacity = clip.alpha.clamp(0, 1)
        confidence = opacity + (1.0 - opacity) * self.invented
        if clip.photos is None:
            return confidence
        shown = torch.stack([torch.maximum(view.seen, view.near) for view in clip.photos])
        return confidence * (1.0 - (1.0 - self.shown) * shown)

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
        from diffusion.locate import locate_weights

        return locate_weights(self.weights)

    def _make_plan(self, folder: Path, size: tuple[int, ...]) -> MemoryPlan:
        from diffusion.blueprint import read_blueprint
        from diffusion.memory_plan import Run, parse_bytes, plan_memory

        blueprint = read_blueprint(folder)
        if self.dtype is None:
            self.dtype = automatic_dtype(self.device, official="image_encoder" in blueprint.modules)
        advised = blueprint.settings.get("default_guidance_scale", 3.2)
        if advised == 1.0 and blueprint.settings.get("start_noise", 1.0) == 0.0:
            # everything is made in one step, from nothing: guidance, as a preset may set it, has no meaning
            self.options["guidance_scale"] = None
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

        pipeline = RGBDVideoRepairPipeline.from_pretrained(folder, torch_dtype=self.dtype)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def automatic_dtype(device: torch.device, official: bool) -> torch.dtype:
    """The precision that weights compute in unless told otherwise."""
    if device.type != "cuda":
        return torch.float32
    # Turing and older emulate bfloat16, slower than float32
    has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if has_bfloat16 and not official else torch.float16


def _evidence(clip: RGBDClip) -> Tensor | None:
    """[T, H, W, 10] what photos show of the clip, if they were looked up."""
    if clip.photos is None or clip.matches is None:
        return None
    return stacked(clip.photos, clip.matches()).clamp(0, 1)


def fingerprint(folder: Path) -> str:
    """12 hexadecimal digits that follow from the content of all weight files of a pipeline folder."""
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
