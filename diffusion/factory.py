"""Networks and samplers of a configuration, randomly initialised."""

from __future__ import annotations

from torch import nn
from transformers import CLIPVisionModel

from diffusion.configurations import Configuration
from diffusion.models.denoiser import LiteVideoUNet
from diffusion.models.fusion import FusionNetwork
from diffusion.models.image_encoder import open_clip_vision_config
from diffusion.models.patch_autoencoder import PatchAutoencoder
from diffusion.models.resampler import Resampler
from diffusion.models.unet import RGBDVideoUNet
from diffusion.models.vae import make_vae
from diffusion.schedulers import RescaledDDIMScheduler, RescaledDPMSolverScheduler

UNETS = {kind.__name__: kind for kind in (RGBDVideoUNet, LiteVideoUNet)}
"""The denoisers by name."""


def make_modules(configuration: Configuration) -> dict[str, nn.Module]:
    """The networks of a configuration by their name in the pipeline, on the default device, randomly initialised."""
    modules: dict[str, nn.Module] = {}
    if configuration.unet is not None:
        modules["unet"] = UNETS[configuration.unet_class](**configuration.unet)
        make_autoencoder = PatchAutoencoder if "patch_size" in configuration.vae else make_vae
        modules["vae"] = make_autoencoder(**configuration.vae)
        modules["resampler"] = Resampler(**configuration.resampler)
    if configuration.image_encoder is not None:
        modules["image_encoder"] = CLIPVisionModel(open_clip_vision_config(**configuration.image_encoder))
    if configuration.fusion is not None:
        modules["fusion"] = FusionNetwork(**configuration.fusion)
    return modules


def make_scheduler(configuration: Configuration) -> RescaledDDIMScheduler | RescaledDPMSolverScheduler | None:
    """The sampler of a configuration; None where there is nothing to sample."""
    if configuration.unet is None:
        return None
    kind = RescaledDPMSolverScheduler if configuration.few_step else RescaledDDIMScheduler
    return kind(**configuration.scheduler)
