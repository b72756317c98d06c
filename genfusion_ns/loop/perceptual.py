"""LPIPS (arXiv 1801.03924) as a loss on generated views, by a network whose weights are on disk; none is downloaded."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genfusion_ns.errors import UserError
from genfusion_ns.gaussians.losses import weighted_mean

NETWORK_FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
"""torchvision's files, the lighter network first."""
FIRST_LAYERS = {"alex": (64, 3, 11, 11), "vgg": (64, 3, 3, 3)}
LARGEST_SIDE, LEAST_SIDE = 256, 32
"""Images are reduced to the one, in pixels; below the other they would vanish in the networks' pooling."""


@dataclass(frozen=True)
class PerceptualLoss:
    """No `nn.Module`, so that no checkpoint and no optimiser ever meets the network."""

    network: Callable[[Tensor, Tensor], Tensor]
    """Two images [1, 3, H, W] in [-1, 1] -> a map of their distance [1, 1, H, W]."""
    weight: float
    """Factor beside the other terms of the loss."""

    def __call__(self, image: Tensor, target: Tensor, confidence: Tensor) -> Tensor:
        """Distance of two images [H, W, 3] in [0, 1], as a mean weighted by `confidence` [H, W, 1] in [0, 1]; pixels of
        confidence 0 are black in both. Scalar >= 0 without `weight`, differentiable with respect to `image`."""
        seen = confidence > 0
        image, target, confidence = (_reduced(x) for x in (image * seen, target * seen, confidence))
        distance = self.network(2 * image - 1, 2 * target - 1)
        return weighted_mean(distance[0, 0, :, :, None], confidence[0, 0, :, :, None])


def perceptual_loss(weight: float, weights: Path | None, device: torch.device | str = "cpu") -> PerceptualLoss | None:
    """The term that `loop.perceptual-weight` asks for; None where that is 0.

    Args:
        weight: of the term.
        weights: a file of torchvision's AlexNet or VGG16; None = the one in torch hub's folder.
        device: where generated views are rendered.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if weight == 0:
        return None
    file = find_weights(weights)
    return PerceptualLoss(load_network(file).to(device), weight)


def find_weights(given: Path | None) -> Path:
    """The file that is given, or one of `NETWORK_FILES` in torch hub's folder.

    Raises:
        UserError: it is not there, and where it belongs.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    places = [folder / name for name in NETWORK_FILES.values()] if given is None else [given.expanduser()]
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"loop.perceptual-weight is above 0, but there is no file {' and no '.join(map(str, places))}. Nothing is "
        f"downloaded: put torchvision's {NETWORK_FILES['alex']} (from download.pytorch.org/models) into {folder}, or "
        "give its place as loop.perceptual-weights; or set loop.perceptual-weight to 0."
    )


def load_network(file: Path) -> nn.Module:
    """torchmetrics' LPIPS, frozen, with AlexNet's or VGG16's convolutions from torchvision's `file`.

    Raises:
        UserError: the file is neither, or damaged.
    """
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{file} can't be read ({reason}); {_expected()}") from error
    kind = _kind(saved)
    if kind is None:
        raise UserError(f"{file} holds neither torchvision's AlexNet nor its VGG16; {_expected()}")
    with torch.random.fork_rng(devices=[]):  # the layers' first values, which the file's replace
        network = _NoTrainLpips(net=kind, spatial=True, pnet_rand=True)
    wanted = network.net.state_dict()  # "slice2.3.weight" is torchvision's "features.3.weight"
    names = {key: f"features.{key.partition('.')[2]}" for key in wanted}
    unfit = [name for key, name in names.items() if getattr(saved.get(name), "shape", None) != wanted[key].shape]
    if unfit:
        raise UserError(f"{file} lacks {unfit[0]}, or has another shape of it; {_expected()}")
    network.net.load_state_dict({key: saved[name] for key, name in names.items()})
    return network.requires_grad_(False)


def _kind(saved: Any) -> Any:
    first = saved.get("features.0.weight") if isinstance(saved, dict) else None
    shape = tuple(getattr(first, "shape", ()))
    return next((kind for kind, expected in FIRST_LAYERS.items() if shape == expected), None)


def _expected() -> str:
    return f"expected torchvision's {' or '.join(NETWORK_FILES.values())} as loop.perceptual-weights."


def _reduced(image: Tensor) -> Tensor:
    """[H, W, C] -> [1, C, h, w] of at most `LARGEST_SIDE` pixels and at least `LEAST_SIDE`."""
    batch, size = image.permute(2, 0, 1)[None], image.shape[:2]
    scale = max(min(1.0, LARGEST_SIDE / max(size)), LEAST_SIDE / min(size))
    if scale == 1:
        return batch
    wanted = [round(side * scale) for side in size]
    return F.interpolate(batch, wanted, mode="bilinear", antialias=True, align_corners=False)
