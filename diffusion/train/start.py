"""The pipeline that a run begins with: fresh networks of a configuration, or saved weights."""

from __future__ import annotations

import torch
from torch import nn

from diffusion.configurations import CONFIGURATIONS, make_pipeline
from diffusion.errors import UserError
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.train.config import PipelineConfig


def starting_pipeline(config: PipelineConfig) -> RGBDVideoRepairPipeline:
    """The pipeline that `config.start` names, with another autoencoder where `config.vae` says so.

    Raises:
        UserError: there are no such weights, or they do not go together.
    """
    if config.start in CONFIGURATIONS:
        pipeline = make_pipeline(config.start, config.seed)
        _start_at_zero(pipeline)
    else:
        pipeline = RGBDVideoRepairPipeline.from_pretrained(config.start, torch_dtype=torch.float32)
    if config.vae is not None:
        _exchange_vae(pipeline, config)
    return pipeline


def _start_at_zero(pipeline: RGBDVideoRepairPipeline) -> None:
    """A residual model that begins by changing nothing at the last timestep needs no steps to learn that."""
    if pipeline.config["residual"]:
        for parameter in pipeline.unet.conv_out.parameters():
            nn.init.zeros_(parameter)


def _exchange_vae(pipeline: RGBDVideoRepairPipeline, config: PipelineConfig) -> None:
    """Put the autoencoder of `config.vae` in."""
    folder = config.vae
    if folder is None or not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no autoencoder; expected the folder 'vae' that the first run wrote")
    vae = type(pipeline.vae).from_pretrained(folder)
    old = pipeline.vae.config
    if vae.config["latent_channels"] != old["latent_channels"]:
        raise UserError(
            f"the autoencoder in {folder} has {vae.config['latent_channels']} latent channels, but {config.start} "
            f"needs {old['latent_channels']}; train it with the same configuration"
        )
    pipeline.register_modules(vae=vae.eval())
