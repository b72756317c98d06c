"""Rasterisers of 2D Gaussians behind one protocol; `choose_rasterizer` picks one."""

from genfusion_ns.raster.api import Rasterizer, Render
from genfusion_ns.raster.choose import Backend, choose_rasterizer

__all__ = ["Backend", "Rasterizer", "Render", "choose_rasterizer"]
