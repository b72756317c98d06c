"""Validation during training: what the averaged weights make of clips that no step sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard.writer import SummaryWriter

from diffusion.models.vae import decode_clip
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.train.batches import generator_of, network_pair
from diffusion.train.chooser_task import ChooserTask
from diffusion.train.repair_task import RepairTask
from diffusion.train.shards import ClipRef, Pair, load_pair
from diffusion.train.vae_task import VaeTask


@dataclass(frozen=True)
class Repaired:
    """One clip before and after: `rendered`, `repaired`, `target` [T, H, W, 3] in [0, 1]."""

    rendered: Tensor
    repaired: Tensor
    target: Tensor

    @property
    def gain(self) -> float:
        """By how many dB the repaired frames are nearer to the target than the rendered ones."""
        return psnr(self.repaired, self.target) - psnr(self.rendered, self.target)


def psnr(image: Tensor, target: Tensor) -> float:
    """Over all pixels, in dB, for values in [0, 1]; at most 100."""
    return float(-10 * torch.log10((image - target).square().mean().clamp_min(1e-10)))


def spread(refs: Sequence[ClipRef], count: int) -> list[ClipRef]:
    """`count` of the clips, evenly spread over the list."""
    if len(refs) <= count:
        return list(refs)
    return [refs[round(i * (len(refs) - 1) / max(1, count - 1))] for i in range(count)]


def repair_output(
    pipeline: RGBDVideoRepairPipeline, pair: Pair, steps: int | None = None, strength: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Repair a stored clip as the loop would: rgb [T, H, W, 3] and disparity [T, H, W, 1], both in [0, 1].

    Args:
        steps: of the sampler; None = the weights' default.
        strength: see the pipeline.
    """
    output = pipeline(
        pair.render_rgb.float() / 255,
        pair.render_depth.float(),
        pair.render_alpha.float() / 255,
        pair.reference.float() / 255,
        pair.warped.float() / 255,
        num_inference_steps=steps,
        strength=strength,
        generator=generator_of("validation", seed),
    )
    rgb = torch.as_tensor(output.rgb).cpu().float()
    if output.disparity is None:
        return rgb, torch.zeros_like(rgb[..., :1])
    return rgb, torch.as_tensor(output.disparity).cpu().float()


@contextmanager
def averaged(networks: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """Put the averaged weights in for a while."""
    kept = {name: value.detach().clone() for name, value in networks.state_dict().items()}
    networks.load_state_dict(average)
    networks.eval()
    try:
        yield
    finally:
        networks.load_state_dict(kept)
        networks.train()


def validate_repair(
    task: RepairTask | ChooserTask,
    refs: Sequence[ClipRef],
    average: dict[str, Tensor],
    writer: SummaryWriter | None,
    step: int,
) -> dict[str, float]:
    """Mean PSNR before and after, by kind of variant, with one step of the sampler; images go to TensorBoard."""
    task.pipeline.set_progress_bar_config(disable=True)
    gains: dict[str, list[float]] = {}
    with averaged(task.networks, average):
        for index, ref in enumerate(refs):
            pair = load_pair(ref)
            repaired, _ = repair_output(task.pipeline, pair, steps=1)
            found = Repaired(pair.render_rgb.float() / 255, repaired, pair.target_rgb.float() / 255)
            for kind in ("all", str(ref.provenance.get("variant", "?")).rstrip("0123456789-_")):
                gains.setdefault(kind, []).append(found.gain)
            if writer is not None and index < 4:
                writer.add_image(f"validation/{index}", _strip(found), step, dataformats="HWC")
    means = {f"gain/{kind}": sum(values) / len(values) for kind, values in gains.items()}
    _write(writer, means, step)
    return means


@torch.no_grad()
def validate_vae(
    task: VaeTask, refs: Sequence[ClipRef], average: dict[str, Tensor], writer: SummaryWriter | None, step: int
) -> dict[str, float]:
    """PSNR of what the autoencoder makes of true frames."""
    vae, found = task.networks.vae, []
    with averaged(task.networks, average):
        for ref in refs:
            clip = network_pair(load_pair(ref), (32, 32)).target[:, : vae.config["in_channels"], :2]
            frames = clip.to(vae.device)
            latents = torch.stack([vae.encode(f).latent_dist.mean for f in frames.transpose(1, 2)])  # pyright: ignore[reportAttributeAccessIssue]
            output = decode_clip(vae, latents.transpose(1, 2) * vae.config["scaling_factor"])
            found.append(psnr((output[:, :3].clamp(-1, 1) + 1) / 2, (frames[:, :3] + 1) / 2))
    means = {"psnr": sum(found) / len(found)}
    _write(writer, means, step)
    return means


def _write(writer: SummaryWriter | None, values: dict[str, float], step: int) -> None:
    if writer is not None:
        for name, value in values.items():
            writer.add_scalar(f"validation/{name}", value, step)


def _strip(found: Repaired) -> np.ndarray:
    """The clip's middle frame before, after, and as it should be, side by side."""
    middle = len(found.target) // 2
    images = [clip[middle].clamp(0, 1) for clip in (found.rendered, found.repaired, found.target)]
    return (torch.cat(images, dim=1).numpy() * 255).astype(np.uint8)
