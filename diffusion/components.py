"""The classes of a repair pipeline by their public path, `diffusion.components.NAME`.

model_index.json of every folder of weights names classes by it, so that folders outlive moves of the files. Folders
from before name modules of their time; `public_paths` sends those here too.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from diffusion.models.denoiser import LiteVideoUNet
from diffusion.models.fusion import FusionNetwork
from diffusion.models.patch_autoencoder import PatchAutoencoder
from diffusion.models.resampler import Resampler
from diffusion.models.unet import RGBDVideoUNet
from diffusion.schedulers import RescaledDDIMScheduler, RescaledDPMSolverScheduler

BASES = (ModelMixin, SchedulerMixin)
"""diffusers looks in the module that a class is named by for what the class is, too."""
COMPONENTS = (
    FusionNetwork,
    LiteVideoUNet,
    PatchAutoencoder,
    RGBDVideoUNet,
    Resampler,
    RescaledDDIMScheduler,
    RescaledDPMSolverScheduler,
)
PATH = __name__
"""What stands in model_index.json before the name of one of these classes."""


def public_paths(index: dict[str, Any]) -> dict[str, Any]:
    """The content of a model_index.json with this project's classes by their public path."""
    names = {component.__name__ for component in COMPONENTS}

    def public(entry: Any) -> Any:
        ours = isinstance(entry, list | tuple) and len(entry) == 2 and str(entry[0]).split(".")[0] == "diffusion"
        return [PATH, entry[1]] if ours and entry[1] in names else entry

    return {key: public(entry) for key, entry in index.items()}
