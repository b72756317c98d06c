"""The networks of a configuration or of a folder, without their weights: built on the meta device."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from diffusion.components import COMPONENTS
from diffusion.configurations import Configuration
from diffusion.errors import UserError, first_line
from diffusion.factory import make_modules

PIPELINE_CLASS = "RGBDVideoRepairPipeline"

NETWORKS = ("unet", "vae", "resampler", "fusion", "image_encoder")
CLASSES: dict[str, Any] = {kind.__name__: kind for kind in (*COMPONENTS, AutoencoderKL)}


@dataclass
class Blueprint:
    """`modules` on the meta device by their name in the pipeline, and the pipeline's plain arguments `settings`."""

    name: str
    modules: dict[str, nn.Module]
    settings: dict[str, Any]

    @classmethod
    def of(cls, configuration: Configuration) -> Blueprint:
        """The networks of a named configuration."""
        with torch.device("meta"):
            modules = make_modules(configuration)
        return cls(configuration.name, modules, dict(configuration.settings))


def read_blueprint(folder: Path, skip: Collection[str] = ()) -> Blueprint:
    """The networks that a pipeline folder describes; reads its JSON files only.

    Args:
        folder: written by `save_pretrained` or `genfusion-convert`.
        skip: components to leave out.

    Raises:
        UserError: one line, if the folder is no repair pipeline or a configuration is missing or makes no network.
    """
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") != PIPELINE_CLASS:
        raise UserError(
            f"{folder} holds a {index.get('_class_name', 'folder without a class name')}; expected a {PIPELINE_CLASS}"
        )
    modules = {}
    for name in NETWORKS:
        if name in skip or index.get(name, [None])[0] is None:
            continue
        config = read_json(folder / name / "config.json")
        try:
            with torch.device("meta"):
                modules[name] = _make(name, config)
        except (TypeError, ValueError, KeyError, RuntimeError, NotImplementedError, ZeroDivisionError) as error:
            file = folder / name / "config.json"
            raise UserError(f"{file} describes no usable network: {first_line(error)}") from error
    return Blueprint(str(folder), modules, {k: v for k, v in index.items() if not k.startswith("_")})


def _make(name: str, config: dict[str, Any]) -> nn.Module:
    if name == "image_encoder":
        return CLIPVisionModel(CLIPVisionConfig(**config))
    return CLASSES[config["_class_name"]].from_config(config)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError if it is missing or broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; expected the folder of a saved repair pipeline") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no readable JSON file ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content
