"""Which rasteriser to use: chosen once per run, and said in the log."""

from __future__ import annotations

import importlib.util
import logging
import sys
from typing import Literal, get_args

import torch

from genfusion_ns.errors import UserError
from genfusion_ns.raster.api import Rasterizer
from genfusion_ns.raster.toolkit import prepare_compiler
from genfusion_ns.raster.torch_reference import TorchRasterizer

Backend = Literal["auto", "gsplat", "numba", "torch"]

logger = logging.getLogger(__name__)


def _gsplat() -> Rasterizer:
    """Raises ImportError or RuntimeError where gsplat's CUDA code cannot be had."""
    if "gsplat.cuda._backend" not in sys.modules and importlib.util.find_spec("gsplat.csrc") is None:
        prepare_compiler(torch.version.cuda)
    from gsplat.cuda import _backend  # compiles it where it is not there yet, with a message of its own

    if _backend._C is None:
        raise ImportError("gsplat has no CUDA code for this machine, and found no CUDA compiler (nvcc) to build it")
    from genfusion_ns.raster.gsplat import GsplatRasterizer

    return GsplatRasterizer()


def _numba() -> Rasterizer:
    """Raises ImportError or RuntimeError where numba is missing or cannot compile the kernels."""
    from numba.core.errors import NumbaError

    from genfusion_ns.raster.numba.rasterizer import NumbaRasterizer, warm_up

    try:
        warm_up()
    except NumbaError as error:
        raise RuntimeError(f"its kernels did not compile: {error}") from error
    return NumbaRasterizer()


def _by_name(name: str, device: torch.device) -> Rasterizer:
    if name == "torch":
        return TorchRasterizer()
    wanted = "cuda" if name == "gsplat" else "cpu"
    if device.type != wanted:
        raise UserError(
            f"The {name} rasteriser runs on {wanted} only, and this run is on {device}. Choose another rasteriser "
            f"('auto' takes the best one for the device), or run on {wanted}."
        )
    try:
        return _gsplat() if name == "gsplat" else _numba()
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"The {name} rasteriser cannot be used here: {error}. Mend the installation of {name}, or choose the "
            "rasteriser 'torch', which needs nothing else but is 40 times slower and more."
        ) from error


def _automatic(device: torch.device) -> Rasterizer:
    if device.type == "cuda":
        return _by_name("gsplat", device)
    if device.type != "cpu":
        return TorchRasterizer()
    try:
        return _numba()
    except (ImportError, RuntimeError) as error:
        logger.warning("numba cannot be used (%s): falling back to the torch rasteriser, 40 times slower.", error)
        return TorchRasterizer()


def choose_rasterizer(name: Backend = "auto", device: torch.device | str = "cpu") -> Rasterizer:
    """The rasteriser called `name`, ready to run on `device`: `auto` takes gsplat on CUDA, numba on a CPU, and torch
    where there is nothing better. The first call on a machine compiles kernels, and says so. Raises UserError: no such
    rasteriser, or it cannot run on this device or machine."""
    if name not in get_args(Backend):
        raise UserError(f"There is no rasteriser {name!r}; expected one of {', '.join(get_args(Backend))}.")
    device = torch.device(device)
    rasterizer = _automatic(device) if name == "auto" else _by_name(name, device)
    logger.info("Rasteriser: %s on %s.", rasterizer.name, device)
    return rasterizer
