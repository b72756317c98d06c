"""The sampler's configuration, from the noise schedule that a checkpoint carries."""

from __future__ import annotations

from torch import Tensor

from diffusion.convert.checkpoint import Checkpoint
from diffusion.errors import UserError
from diffusion.schedulers.ddim import RescaledDDIMScheduler

# The schedule may have been stored in half precision, which rounds it by up to 2.5e-4.
TOLERANCE = 2e-3


def official_scheduler(rescale_base: float = 0.7, rescale_steps: int = 400) -> RescaledDDIMScheduler:
    """The sampler that the official code runs: t = 961 ... 1 for 25 steps, eta 1, ending at the first noise level."""
    return RescaledDDIMScheduler(rescale_base=rescale_base, rescale_steps=rescale_steps, clean_end=False)


def plan_scheduler(checkpoint: Checkpoint) -> RescaledDDIMScheduler:
    """The official sampler, with the dynamic rescale of the checkpoint (none if it has no `scale_arr`).

    A checkpoint without a schedule is taken for GenFusion's.

    Raises:
        UserError: for another schedule than the official one.
    """
    if "alphas_cumprod" not in checkpoint.shapes:
        return official_scheduler()
    if "scale_arr" in checkpoint.shapes:
        scheduler = official_scheduler(*_rescale(checkpoint.read("scale_arr").float()))
    else:
        scheduler = official_scheduler(rescale_base=1.0)
    stored = checkpoint.read("alphas_cumprod").float()
    ours = scheduler.alphas_cumprod
    if stored.shape != ours.shape or not (stored - ours).abs().max() < TOLERANCE:
        raise UserError(
            f"the checkpoint's noise schedule has {len(stored)} steps and ends at alphas_cumprod = {stored[-1]:.3g}; "
            f"expected {len(ours)} steps that end at 0 (v-prediction with zero terminal SNR: GenFusion, or "
            "DynamiCrafter 512 and 1024)."
        )
    return scheduler


def _rescale(scales: Tensor) -> tuple[float, int]:
    """The table of factors -> (its last value, the number of entries of its ramp)."""
    base = round(float(scales[-1]), 3)
    ramp = int((scales > scales[-1]).sum()) + 1
    # In half precision the ramp's last entries may round to its end; its length is a round number.
    return base, round(ramp, -1)
