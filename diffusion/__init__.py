"""RGB-D video diffusion: artifact-ridden renderings in, repaired RGB-D frames out. Knows nothing of
Nerfstudio.

Importing this package loads neither torch nor diffusers; the pipeline is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion.pipeline import RGBDVideoRepairPipeline

__all__ = ["RGBDVideoRepairPipeline"]


def __getattr__(name: str) -> Any:
    if name == "RGBDVideoRepairPipeline":
        from diffusion.pipeline import RGBDVideoRepairPipeline

        return RGBDVideoRepairPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
