"""Which rasteriser to use: chosen once per run, and said in the log."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from genfusion_ns.errors import UserError
from genfusion_ns.raster.api import Rasterizer
from genfusion_ns.raster.torch_reference import TorchRasterizer

Backend = Literal["auto", "gsplat", "numba", "torch"]

logger = logging.getLogger(__name__)


def choose_rasterizer(name: Backend = "auto", device: torch.device | str = "cpu") -> Rasterizer:
    """The rasteriser for `device`."""
    from genfusion_ns.raster.numba_raster import NumbaRasterizer, warm_up
    if name == "torch":
        return TorchRasterizer()
    warm_up()
    return NumbaRasterizer()
