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

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DiffusionRepairer:
    """`diffusion.pipeline.RGBDVideoRepairPipeline` as a repairer.

    Args:
        weights: folder, name of bundled weights, or hub id.
        steps, guidance: of the sampler; None = what the weights advise.
        strength: in (0, 1]; below 1 the sampler starts from the noised render, by opacity.
        invented: in [0, 1], confidence in what fills holes.
        shown: in [0, 1], share of the confidence that is left where a photo shows the surface or looks from near.
        memory: budget on the device, such as "12GiB"; empty = as much as it takes.
        dtype: "auto" = bfloat16 on CUDA, float32 elsewhere.
        device: where it computes.
        announce: told the memory plan before anything is loaded.
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
        automatic = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.dtype = automatic if dtype == "auto" else _DTYPES[dtype]
        self.options = {"num_inference_steps": steps, "guidance_scale": guidance, "strength": strength}
        self.fingerprint = ""
        self._pipeline: RGBDVideoRepairPipeline | None = None
        self._plan: MemoryPlan | None = None

    def repair(self, clip: RGBDClip, reference: Tensor) -> RepairedClip:
        """See `Repairer.repair`. Noise follows from `clip.seed`; holes are believed by `invented`.

        Raises:
            UserError: no such weights, or they do not fit the memory budget.
        """
        from diffusion.errors import UserError as DiffusionError

        try:
            pipeline, plan = self._ready(clip)
            output = pipeline(
                clip.rgb,
                clip.depth,
                clip.alpha.clamp(0, 1),
                reference.clamp(0, 1),
                _evidence(clip),
                generator=generator(clip.seed, "diffusion"),
                vae_chunk=plan.vae_chunk,
                batch_guidance=plan.batch_guidance,
                **self.options,
            )
        except DiffusionError as error:
            raise UserError(f"repairer 'diffusion': {error}") from error
        rgb = torch.as_tensor(output.rgb).to(clip.rgb)
        if output.disparity is None:
            disparity = torch.zeros_like(clip.depth)
        else:
            # the model's farthest pixel is 0, which here means unknown
            disparity = torch.as_tensor(output.disparity).to(clip.depth) + 1e-3
        return RepairedClip(rgb, disparity, self._confidence(clip))

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
        if self._pipeline is not None and self._plan is not None and not self._plan.offload:
            self._pipeline.to("cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _ready(self, clip: RGBDClip) -> tuple[RGBDVideoRepairPipeline, MemoryPlan]:
        """The networks, where they compute."""
        if self._pipeline is None or self._plan is None:
            folder = self._locate()
            self._plan = self._make_plan(folder, clip)
            self._pipeline = self._load(folder, offload=self._plan.offload)
            self.fingerprint = fingerprint(folder)
        if not self._plan.offload:
            self._pipeline.to(self.device)
        return self._pipeline, self._plan

    def _locate(self) -> Path:
        from diffusion.locate import locate_weights

        return locate_weights(self.weights)

    def _make_plan(self, folder: Path, clip: RGBDClip) -> MemoryPlan:
        from diffusion.blueprint import read_blueprint
        from diffusion.memory_plan import Run, parse_bytes, plan_memory

        blueprint = read_blueprint(folder)
        steps, scale = self.options["num_inference_steps"], self.options["guidance_scale"]
        frames, height, width = clip.rgb.shape[:3]
        run = Run(
            frames,
            height,
            width,
            dtype=self.dtype,
            steps=int(steps or blueprint.settings.get("default_steps", 25)),
            guidance=(blueprint.settings.get("default_guidance_scale", 3.2) if scale is None else scale) != 1.0,
        )
        plan = plan_memory(blueprint, run, parse_bytes(self.memory) if self.memory else None)
        self.announce(plan.summary)
        if plan.fits is False:
            raise UserError(
                f"repairing {frames} frames of {width} x {height} takes {plan.peak / 2**20:,.0f} MiB even with modules "
                f"moved off between uses; the budget is {self.memory}. Lower loop.max-side or loop.clip-length, or "
                "raise loop.diffusion.memory."
            )
        return plan

    def _load(self, folder: Path, offload: bool) -> RGBDVideoRepairPipeline:
        from diffusion.pipeline import RGBDVideoRepairPipeline

        pipeline = RGBDVideoRepairPipeline.from_pretrained(folder, torch_dtype=self.dtype)
        pipeline.set_progress_bar_config(disable=True)
        if offload and self.device.type != "cpu":
            pipeline.enable_model_cpu_offload(device=self.device)
        return pipeline


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
