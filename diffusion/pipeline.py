"""The pipeline: renderings with artifacts and photos in, repaired RGB-D frames out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.hooks import CpuOffload
from diffusers.utils.outputs import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from torch import Tensor

from diffusion.errors import UserError
from diffusion.fuse import FusedClip, fuse_clip
from diffusion.inputs.preprocess import latent_opacity, letterbox
from diffusion.inputs.repair_inputs import check_inputs, check_numbers, check_shape, network_clips
from diffusion.models.vae import decode_clip, encode_clip
from diffusion.parts import RepairParts
from diffusion.sampling.conditioning import clip_context, join_references, latent_context
from diffusion.sampling.postprocess import split_frames
from diffusion.sampling.sample import Denoiser, sample_latents

Frames = Tensor | NDArray[np.generic]
Callback = Callable[[Any, int, int, dict[str, Tensor]], Any]


@dataclass
class RepairOutput(BaseOutput):
    """`rgb` [T,H,W,3] in [0, 1]; `disparity` [T,H,W,1]: with a fusion network 1 / z-depth in the given depth's unit,
    else in [0, 1], 1 = nearest, relative to the clip (None for a model without a depth channel); `certainty` and `gain`
    [T,H,W,1] in [0, 1], see `Fused` (None without a fusion network)."""

    rgb: Frames
    disparity: Frames | None
    certainty: Frames | None = None
    gain: Frames | None = None


class RGBDVideoRepairPipeline(RepairParts):
    """Repairs clips of RGB-D renderings, given photos of the scene; made as `RepairParts` says."""

    @torch.no_grad()
    def __call__(
        self,
        rgb: Frames,
        depth: Frames | None,
        alpha: Frames | None = None,
        references: Frames | Sequence[Any] | None = None,
        warped: Frames | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        eta: float | None = None,
        fps: int | None = None,
        disparity_range: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        posterior_noise: Tensor | None = None,
        step_noise: Tensor | None = None,
        vae_chunk: int = 4,
        batch_guidance: bool = True,
        output_type: str = "pt",
        callback_on_step_end: Callback | None = None,
    ) -> RepairOutput:
        """Repair a clip.

        Args:
            rgb: [T,H,W,3] in [0, 1] (or uint8), any T, H, W >= 1.
            depth: [T,H,W,1], any unit, 0 where nothing was rendered. None = no depth known: the network sees a
                constant middle disparity, which makes it a monocular depth estimator.
            alpha: opacity [T,H,W,1] in [0, 1]. None = 1 where there is depth (everywhere, if `depth` is None).
            references: photos in [0, 1]: [h,w,3], [n,h,w,3] or a list of [h,w,3] of any size.
            warped: [T,S,8,H,W], what S photos show of each frame, see `source_views.warp_sources`. None = nothing is
                known of that; only a fusion network looks at it.
            num_inference_steps: of the sampler; None = the weights' default, as for the next two; 0 = only fuse.
            guidance_scale: 1 = no guidance, and half the work.
            guidance_rescale: see `guidance.rescale`, in [0, 1].
            eta: noise added by each step of DDIM; None = the scheduler's.
            fps: frame rate that the network is told; None = its default.
            disparity_range: disparities (1 / depth) that map to 0 and 1. None = the clip's own, by the weights' rule.
            generator: seeds the noise.
            latents: initial noise [1,c,T,h,w] of the padded clip, instead of the generator's.
            posterior_noise: [1,c,T,h,w], the noise of the VAE's posterior.
            step_noise: [steps,1,c,T,h,w], the noise that the sampler adds.
            vae_chunk: frames per call of the VAE; only memory depends on it.
            batch_guidance: both branches of guidance in one pass; False takes two, with half the memory.
            output_type: "pt" or "np".
            callback_on_step_end: called as f(pipeline, step, timestep, {"latents": ...}) after each step.

        Raises:
            UserError: if anything of this is out of range or of the wrong shape.
        """
        steps = self.config["default_steps"] if num_inference_steps is None else num_inference_steps
        scale = self.config["default_guidance_scale"] if guidance_scale is None else guidance_scale
        rescale = self.config["default_guidance_rescale"] if guidance_rescale is None else guidance_rescale
        most = len(self.scheduler) - 1 if self.scheduler is not None else 999
        check_numbers(steps, (0 if self.fusion is not None else 1, most), scale, rescale, eta, vae_chunk, output_type)
        inputs = check_inputs(rgb, depth, alpha, references, self._execution_device, warped, self.unet is not None)
        fused = None if self.fusion is None else fuse_clip(self.fusion, inputs)
        if self.unet is None and fused is None:
            raise UserError("these weights hold neither a fusion network nor a video diffusion model")
        if fused is not None and not (self.unet and steps and bool(fused.to_draw.any())):
            return self._output(fused, output_type)
        box = letterbox(*inputs.rgb.shape[2:4], multiple=self.size_multiple)
        rule = self.config["disparity_rule"] if disparity_range is None else disparity_range
        has_depth = self.vae.config["in_channels"] > 3
        seen = inputs if fused is None else fused.as_inputs(inputs)
        frames, opacity = (box.pad(clip) for clip in network_clips(seen, rule, has_depth))
        sampled = self.config["sample_posterior"]
        posterior = self._noise(frames, generator, posterior_noise, "posterior_noise") if sampled else None
        rendered = encode_clip(self.vae, frames, posterior, vae_chunk).float()
        noise = self._noise(frames, generator, latents, "latents")
        noise = noise if latents is not None else self.config["temperature"] * noise
        if step_noise is not None:
            check_shape("step_noise", step_noise, (steps, *noise.shape))
        context, null_context = self._contexts(inputs.references, guided=scale != 1.0)
        self._park_vae()
        conditions = [rendered, latent_opacity(opacity, self.vae_factor)] if self.takes_opacity else [rendered]
        denoiser = Denoiser(
            unet=self.unet,
            conditions=torch.cat(conditions, dim=1),
            context=context,
            null_context=null_context,
            scale=scale,
            rescale=rescale,
            batched=batch_guidance,
            references=len(inputs.references),
            fps=fps,
        )

        def after_step(index: int, timestep: int, latents: Tensor) -> None:
            if callback_on_step_end is not None:
                callback_on_step_end(self, index, timestep, {"latents": latents})

        options = {"eta": eta, "generator": generator}
        latents = sample_latents(self.scheduler, denoiser, noise, steps, options, step_noise, after_step)
        if self.config["residual_scale"] is not None:
            latents = rendered + rendered.new_tensor(self.config["residual_scale"]).view(-1, 1, 1, 1) * latents
        decoded = decode_clip(self.vae, latents.to(self.vae.dtype), vae_chunk).float()
        self._check_decoded(decoded)
        drawn = FusedClip(*split_frames(box.crop(decoded)), certainty=None)
        return self._output(drawn if fused is None else fused.completed(drawn), output_type)

    def _park_vae(self) -> None:
        """With model offload on, the hooks would leave the VAE on the device until its second turn, after the UNet."""
        if isinstance(getattr(self.vae, "_hf_hook", None), CpuOffload):
            self.vae.cpu()

    def _noise(self, frames: Tensor, generator: torch.Generator | None, given: Tensor | None, name: str) -> Tensor:
        """Gaussian noise like the latents of these frames, [1, c, T, h, w]; what is `given` instead is checked."""
        batch, _, length, height, width = frames.shape
        factor = self.vae_factor
        shape = (batch, self.vae.config["latent_channels"], length, height // factor, width // factor)
        if given is None:
            return randn_tensor(shape, generator=generator, device=frames.device, dtype=torch.float32)
        check_shape(name, given, shape)
        return given.to(frames.device, torch.float32)

    def _contexts(self, references: list[Tensor], guided: bool) -> tuple[Tensor, Tensor | None]:
        """Context tokens [1, n * Q, D] of photos [h, w, 3] in [0, 1], and of none (only if guidance is on)."""
        photos = [2 * photo.movedim(-1, 0) - 1 for photo in references]
        split = self.unet.config["context_split"]
        context = join_references(self.photo_tokens(photos), split)
        if not guided:
            return context, None
        grey = torch.zeros(3, 224, 224, device=self._execution_device)  # stands for no photo
        null = self.photo_tokens([grey]).expand(len(photos), -1, -1)
        return context, join_references(null, split)

    def photo_tokens(self, photos: Sequence[Tensor]) -> Tensor:
        """Context tokens [n, Q, D] of photos [3, h, w] in [-1, 1], differentiable in the resampler."""
        if self.image_encoder is not None:
            return clip_context(self.image_encoder, self.resampler, photos)
        size, patch = tuple(self.config["reference_size"]), self.config["token_patch"]
        return latent_context(self.vae, self.resampler, photos, size, patch)

    def _check_decoded(self, decoded: Tensor) -> None:
        if not torch.isfinite(decoded).all():
            raise UserError(
                f"the decoded frames hold NaN or infinite values (computed in {self.unet.dtype}); use bfloat16 or "
                f"float32, and check the weights"
            )

    def _output(self, clip: FusedClip, kind: str) -> RepairOutput:
        self.maybe_free_model_hooks()
        frames = [None if f is None else f[0] for f in (clip.rgb, clip.disparity, clip.certainty, clip.gain)]
        if kind == "np":
            frames = [None if f is None else f.cpu().numpy() for f in frames]
        return RepairOutput(rgb=frames[0], disparity=frames[1], certainty=frames[2], gain=frames[3])
