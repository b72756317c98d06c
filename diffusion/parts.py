"""What the repair pipeline is made of: its networks and settings, how they are loaded, and what follows from them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn
from transformers import CLIPVisionModel

from diffusion.components import public_paths
from diffusion.loading import check_folder, loading_errors_in_one_line, locate_weights
from diffusion.models.denoiser import LiteVideoUNet
from diffusion.models.fusion import FusionNetwork
from diffusion.models.resampler import Resampler
from diffusion.models.unet import RGBDVideoUNet
from diffusion.models.vae import Autoencoder, spatial_factor
from diffusion.quiet import quiet_loading
from diffusion.schedulers import RescaledDDIMScheduler, RescaledDPMSolverScheduler

if TYPE_CHECKING:
    from typing_extensions import Self


class RepairParts(DiffusionPipeline):
    """Networks and settings of `pipeline.RGBDVideoRepairPipeline`.

    Args:
        unet: the denoiser. Its input channels are the noisy latent's, the renderings' latent's and, where one more is
            left over, the renderings' opacity.
        vae: RGB-D autoencoder (4 image channels), or of RGB alone (3).
        resampler: makes context tokens of a photo's tokens.
        scheduler: the sampler; any with the interface of `RescaledDDIMScheduler`.
        image_encoder: CLIP vision tower for the photos; None = the photos' own VAE latents are the tokens.
        fusion: fuses renderings and photos first; the denoiser then draws only what it is unsure of. None = the
            denoiser sees the renderings themselves. With a fusion network, `unet`, `vae`, `resampler` and `scheduler`
            may all be None: nothing is invented then.
        sample_posterior: whether renderings are encoded by a sample of the VAE's posterior (official) or its mean.
        disparity_rule: "minmax" (official) or "percentile", see `preprocess`.
        reference_size: height and width that photos are brought to where there is no image encoder.
        token_patch: side of a photo's token in latent positions where there is no image encoder.
        residual_scale: None = the denoiser draws latents; else what the given frames' latents lack, divided by these.
        temperature: deviation of the initial noise; below 1 samples differ less and lie nearer to their mean.
        default_steps, default_guidance_scale, default_guidance_rescale: what a call uses unless told otherwise.
    """

    model_cpu_offload_seq = "fusion->image_encoder->resampler->unet->vae"
    _optional_components = ["image_encoder", "fusion", "unet", "vae", "resampler", "scheduler"]

    unet: RGBDVideoUNet | LiteVideoUNet
    vae: Autoencoder
    resampler: Resampler
    scheduler: RescaledDDIMScheduler | RescaledDPMSolverScheduler
    image_encoder: CLIPVisionModel | None
    fusion: FusionNetwork | None

    def __init__(
        self,
        unet: RGBDVideoUNet | LiteVideoUNet | None = None,
        vae: Autoencoder | None = None,
        resampler: Resampler | None = None,
        scheduler: RescaledDDIMScheduler | RescaledDPMSolverScheduler | None = None,
        image_encoder: CLIPVisionModel | None = None,
        fusion: FusionNetwork | None = None,
        sample_posterior: bool = True,
        disparity_rule: str = "minmax",
        reference_size: list[int] | tuple[int, ...] = (192, 320),
        token_patch: int = 2,
        residual_scale: list[float] | tuple[float, ...] | None = None,
        temperature: float = 1.0,
        default_steps: int = 25,
        default_guidance_scale: float = 3.2,
        default_guidance_rescale: float = 0.7,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, vae=vae, resampler=resampler, scheduler=scheduler)
        self.register_modules(image_encoder=image_encoder, fusion=fusion)
        self.register_to_config(
            sample_posterior=sample_posterior,
            disparity_rule=disparity_rule,
            reference_size=tuple(reference_size),
            token_patch=token_patch,
            temperature=temperature,
            residual_scale=residual_scale if residual_scale is None else tuple(residual_scale),
            default_steps=default_steps,
            default_guidance_scale=default_guidance_scale,
            default_guidance_rescale=default_guidance_rescale,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load weights: a folder written by `save_pretrained`, the name of bundled weights, or a hub id.

        Args:
            pretrained_model_name_or_path: looked up in this order.
            kwargs: as in diffusers, e.g. `torch_dtype`; `revision`, `cache_dir` and `local_files_only` for a hub id.

        Raises:
            UserError: one line, if there are no such weights, a file is missing or broken, or the folder holds
                something else.
        """
        hub = {k: kwargs.pop(k) for k in ("revision", "cache_dir", "local_files_only") if k in kwargs}
        folder = locate_weights(str(pretrained_model_name_or_path), **hub)
        with loading_errors_in_one_line(folder):
            check_folder(folder, given=set(kwargs))
            with quiet_loading():
                return super().from_pretrained(folder, **kwargs)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """diffusers' own; classes are looked up by their public path, wherever they were when the folder was made."""
        config = super().load_config(*args, **kwargs)
        return public_paths(config) if isinstance(config, dict) else config

    def to_json_string(self) -> str:
        """The content of model_index.json."""
        return json.dumps(public_paths(json.loads(super().to_json_string())), indent=2, sort_keys=True) + "\n"

    @property
    def size_multiple(self) -> int:
        """Height and width in pixels are padded to a multiple of this: the VAE's factor times the UNet's."""
        if self.unet is None:
            return self.fusion.multiple if self.fusion is not None else 1
        return self.vae_factor * 2 ** (len(self.unet.config["block_out_channels"]) - 1)

    @property
    def vae_factor(self) -> int:
        """Pixels per latent position, along each side; 1 without an autoencoder."""
        return spatial_factor(self.vae) if self.vae is not None else 1

    @property
    def takes_opacity(self) -> bool:
        """Whether the UNet has an input channel for the renderings' opacity."""
        if self.unet is None:
            return False
        latent = self.vae.config["latent_channels"]
        return self.unet.config["in_channels"] == 2 * latent + 1

    def use_channels_last(self) -> None:
        """Lay the 2-D convolutions' weights out channels-last, which CPUs and tensor cores are quicker with."""
        for component in (self.fusion, self.unet, self.vae):
            for module in component.modules() if component is not None else ():
                if isinstance(module, nn.Conv2d):
                    module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
