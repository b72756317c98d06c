"""Named sizes of the model: the official one, and small ones for training and running on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn
from transformers import CLIPVisionModel

from diffusion.errors import UserError
from diffusion.models.denoiser import LiteVideoUNet
from diffusion.models.fusion import FusionNetwork
from diffusion.models.image_encoder import open_clip_vision_config
from diffusion.models.patch_autoencoder import PatchAutoencoder
from diffusion.models.resampler import Resampler
from diffusion.models.unet import RGBDVideoUNet
from diffusion.models.vae import make_vae
from diffusion.preprocess import TOKEN_PLACE_WIDTH
from diffusion.schedulers import RescaledDDIMScheduler, RescaledDPMSolverScheduler

if TYPE_CHECKING:
    from diffusion.pipeline import RGBDVideoRepairPipeline

UNETS: dict[str, Any] = {kind.__name__: kind for kind in (RGBDVideoUNet, LiteVideoUNet)}
"""The denoisers by name."""


@dataclass(frozen=True)
class Configuration:
    """Arguments of the networks' and the pipeline's constructors; what is left out takes their (official) defaults.

    `unet_class` names one of `UNETS`. `image_encoder` None = no CLIP tower, `fusion` None = no fusion network, `unet`
    None = no video diffusion at all.
    `few_step` = the sampler is the few-step solver, not DDIM. `scheduler` holds arguments of that sampler. `settings`
    are the pipeline's plain arguments.
    """

    name: str
    summary: str
    unet: dict[str, Any] | None = field(default_factory=dict)
    unet_class: str = RGBDVideoUNet.__name__
    vae: dict[str, Any] = field(default_factory=dict)
    resampler: dict[str, Any] = field(default_factory=dict)
    image_encoder: dict[str, Any] | None = None
    fusion: dict[str, Any] | None = None
    few_step: bool = True
    scheduler: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


OFFICIAL = Configuration(
    name="official",
    summary="the network of the official checkpoint: 2.2 B parameters, 25 DDIM steps with guidance",
    image_encoder={},
    few_step=False,
    scheduler={"clean_end": False},
)

LITE = Configuration(
    name="lite",
    summary="fusion of renderings and photos, and a small video diffusion model for what no photo shows",
    unet_class="LiteVideoUNet",
    unet={"in_channels": 33, "out_channels": 16, "block_out_channels": (64, 128, 192), "cross_attention_dim": 64},
    vae={"patch_size": 4, "latent_channels": 16, "refine_width": 0},
    resampler={
        "embed_dims": 16 * 4**2 + TOKEN_PLACE_WIDTH,
        "output_dims": 64,
        "hidden_dims": 64,
        "depth": 2,
        "dim_head": 16,
        "heads": 4,
        "num_queries": 32,
    },
    fusion={},
    scheduler={"rescale_base": 1.0},
    settings={
        "sample_posterior": False,
        "disparity_rule": "percentile",
        "reference_size": (96, 160),
        "token_patch": 4,
        "default_steps": 4,
        "default_guidance_scale": 1.0,
        "default_guidance_rescale": 0.0,
    },
)
LITE_SMALL = Configuration(
    name="lite-small",
    summary="fusion of renderings and photos alone: nothing is invented; what is bundled",
    unet=None,
    fusion={},
)

CONFIGURATIONS: dict[str, Configuration] = {c.name: c for c in (OFFICIAL, LITE, LITE_SMALL)}


def make_modules(configuration: Configuration) -> dict[str, nn.Module]:
    """The networks of a configuration by their name in the pipeline, on the default device, randomly initialised."""
    modules: dict[str, nn.Module] = {}
    if configuration.unet is not None:
        modules["unet"] = UNETS[configuration.unet_class](**configuration.unet)
        modules["vae"] = make_autoencoder(configuration.vae)
        modules["resampler"] = Resampler(**configuration.resampler)
    if configuration.image_encoder is not None:
        modules["image_encoder"] = CLIPVisionModel(open_clip_vision_config(**configuration.image_encoder))
    if configuration.fusion is not None:
        modules["fusion"] = FusionNetwork(**configuration.fusion)
    return modules


def make_autoencoder(arguments: dict[str, Any]) -> AutoencoderKL | PatchAutoencoder:
    """The autoencoder that a configuration's arguments belong to."""
    return PatchAutoencoder(**arguments) if "patch_size" in arguments else make_vae(**arguments)


def make_scheduler(configuration: Configuration) -> RescaledDDIMScheduler | RescaledDPMSolverScheduler | None:
    """The sampler of a configuration; None where there is nothing to sample."""
    if configuration.unet is None:
        return None
    kind = RescaledDPMSolverScheduler if configuration.few_step else RescaledDDIMScheduler
    return kind(**configuration.scheduler)


def make_pipeline(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> RGBDVideoRepairPipeline:
    """A pipeline with random weights on the CPU, for tests, measurements and as the start of training.

    Args:
        name: one of `CONFIGURATIONS`.
        seed: determines the weights; the global random state is left alone.
        dtype: of the networks.

    Raises:
        UserError: for another name.
    """
    from diffusion.pipeline import RGBDVideoRepairPipeline

    configuration = get_configuration(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = make_modules(configuration)
    for module in modules.values():
        # diffusers' own `to` warns at every change of dtype, even where it has nothing to say.
        nn.Module.to(module.eval(), dtype=dtype)
    scheduler = make_scheduler(configuration)
    return RGBDVideoRepairPipeline(**modules, scheduler=scheduler, **configuration.settings)  # pyright: ignore[reportArgumentType]


def get_configuration(name: str) -> Configuration:
    """Look a configuration up. Raises UserError for an unknown name."""
    if name not in CONFIGURATIONS:
        raise UserError(f"there is no configuration {name!r}; expected one of {', '.join(CONFIGURATIONS)}")
    return CONFIGURATIONS[name]
