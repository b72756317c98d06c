"""`genfusion-train-repairer`: train autoencoder, chooser and denoiser on pairs that `genfusion-make-pairs` wrote."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import track
from torch import nn

from diffusion.configurations import get_configuration
from diffusion.convert.write import atomic_folder
from diffusion.errors import exits_cleanly
from diffusion.models.patch_autoencoder import PatchAutoencoder
from diffusion.models.vae import spatial_factor
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.train.chooser_task import ChooserTask
from diffusion.train.config import ChooserConfig, RepairConfig, VaeConfig, check_config
from diffusion.train.repair_task import RepairTask
from diffusion.train.shards import ClipRef
from diffusion.train.trainer import StepBatches, find_pairs, train, without_easy
from diffusion.train.vae_task import VaeTask, fit_patches, latent_scale
from diffusion.train.validate import averaged, spread, validate_repair, validate_vae

log = logging.getLogger(__name__)


def train_vae(config: VaeConfig, stop_after: int | None = None) -> Path:
    """Train the autoencoder; its folder `vae` is written at the end, with the latents' scale measured.

    Raises:
        UserError: no pairs, or settings that cannot work.
    """
    task = VaeTask.fresh(config)
    vae = task.networks.vae
    check_config(config, config.stages, spatial_factor(vae))
    fills = bool(get_configuration(config.configuration).settings.get("fill_holes", False))
    batches = StepBatches(find_pairs(config.pairs), config.stages, (32, 32), fills, config.seed)
    held_out = spread(find_pairs(config.val_pairs), config.validation_clips) if config.val_pairs else []
    out = config.output / "vae"
    if isinstance(vae, PatchAutoencoder):
        share = fit_patches(vae, (batches[step] for step in track(range(len(batches)), "fitting patches")))
        _save(vae, out)
        log.info("%d components hold %.1f %% of the patches' variance", vae.config["latent_channels"], 100 * share)
        if held_out:
            log.info(_shown(validate_vae(task, held_out, task.networks.state_dict(), None, 0)))
        return out

    def validate(average, writer, step):
        if held_out:
            log.info("step %d: %s", step, _shown(validate_vae(task, held_out, average, writer, step)))

    state = train(task, config, batches, validate, stop_after)
    if stop_after is None:
        with averaged(task.networks, state.average):
            vae.cpu()
            samples = [batches[i] for i in range(min(8, len(batches)))]
            vae.register_to_config(scaling_factor=latent_scale(vae, samples))
            _save(vae, out)
        log.info("the autoencoder is in %s", out)
    return out


def train_chooser(config: ChooserConfig, stop_after: int | None = None) -> Path:
    """Train the chooser; the whole pipeline is written to the folder `pipeline` at the end, float16.

    Raises:
        UserError: no pairs, no weights to start from, or settings that cannot work.
    """
    return _train_pipeline(ChooserTask.fresh(config), config, find_pairs(config.pairs), stop_after)


def train_denoiser(config: RepairConfig, stop_after: int | None = None) -> Path:
    """Train the denoiser and the resampler, and the chooser with them; the whole pipeline is written to the folder
    `pipeline` at the end, float16.

    Raises:
        UserError: no pairs, no weights to start from, or settings that cannot work.
    """
    refs = without_easy(find_pairs(config.pairs), config.most_psnr)
    return _train_pipeline(RepairTask.fresh(config), config, refs, stop_after)


def _train_pipeline(
    task: RepairTask | ChooserTask, config: RepairConfig | ChooserConfig, refs: list[ClipRef], stop_after: int | None
) -> Path:
    pipeline = task.pipeline
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    check_config(config, config.stages, pipeline.size_multiple)
    photo_size, fills = tuple(pipeline.config["reference_size"]), pipeline.config["fill_holes"]
    batches = StepBatches(refs, config.stages, photo_size, fills, config.seed, augmented=config.augment)
    held_out = spread(find_pairs(config.val_pairs), config.validation_clips) if config.val_pairs else []

    def validate(average, writer, step):
        if held_out:
            log.info("step %d: %s", step, _shown(validate_repair(task, held_out, average, writer, step)))

    state = train(task, config, batches, validate, stop_after)
    out = config.output / "pipeline"
    if stop_after is None:
        with averaged(task.networks, state.average):
            _save(_half(pipeline), out)
        log.info("the pipeline is in %s; use it with --pipeline.datamanager.loop.diffusion.weights %s", out, out)
    return out


def _half(pipeline: RGBDVideoRepairPipeline) -> RGBDVideoRepairPipeline:
    """The pipeline on the CPU in float16, as weights are shipped."""
    for network in (pipeline.unet, pipeline.vae, pipeline.resampler, pipeline.chooser):
        if network is not None:
            nn.Module.to(network, "cpu", torch.float16)  # diffusers' own `to` warns at every change of dtype
    return pipeline


def _save(thing: Any, out: Path) -> None:
    """`save_pretrained`, as a whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out, overwrite=True) as partial:
        thing.save_pretrained(partial, safe_serialization=True)
        for path in (*partial.rglob("config.json"), *partial.rglob("model_index.json")):
            settings = json.loads(path.read_text(encoding="utf-8"))
            settings.pop("_name_or_path", None)  # a folder of this machine, which is nobody's business
            path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _shown(means: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in means.items())


@exits_cleanly
def main() -> None:
    """Entry point."""
    logging.basicConfig(level="INFO", format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))])
    commands = (
        Annotated[VaeConfig, tyro.conf.subcommand("vae")]
        | Annotated[ChooserConfig, tyro.conf.subcommand("chooser")]
        | Annotated[RepairConfig, tyro.conf.subcommand("denoiser")]
    )
    config = tyro.cli(commands, prog="genfusion-train-repairer")  # pyright: ignore[reportArgumentType, reportCallIssue]
    if isinstance(config, VaeConfig):
        train_vae(config)
    elif isinstance(config, ChooserConfig):
        train_chooser(config)
    else:
        train_denoiser(config)


if __name__ == "__main__":
    main()
