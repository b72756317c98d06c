"""Learning rates of the six Gaussian parameters, and the decay of the means' rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from genfusion_ns.bounds import COUNT, NATURAL, POSITIVE, Bounds
from genfusion_ns.gaussians.parameters import MEANS_RATE_END, RATES
from genfusion_ns.schedule import log_linear


@dataclass
class GaussianAdamConfig(OptimizerConfig):
    """Adam as 3D and 2D Gaussian Splatting use it."""

    _target: type = torch.optim.Adam
    """The optimizer class."""
    lr: float = 1e-3
    """Step size in the parameter's own unit, in a run of the recipe's length."""
    run_factor: float | None = None
    """Factor on lr; None = the square root of the recipe's length (7,000 steps) over --max-num-iterations, from 1 to 4:
    short runs need larger steps to arrive."""
    eps: float = 1e-15
    """Added to the denominator; the splatting papers' value, small because gradients of single splats are tiny."""
    fused: bool = True
    """One kernel per parameter instead of a dozen; half the optimiser's time on a CPU."""

    BOUNDS: ClassVar[Bounds] = {"lr": NATURAL, "run_factor": POSITIVE, "eps": NATURAL, "max_norm": POSITIVE}

    def setup(self, params: Any) -> torch.optim.Optimizer:
        """The optimiser of `params`, at this run's rate."""
        return self._target(params, lr=self.lr * (self.run_factor or 1.0), eps=self.eps, fused=self.fused)


@dataclass
class LogLinearSchedulerConfig(SchedulerConfig):
    """From the optimiser's rate to `lr_final`, a straight line in log space."""

    _target: type = field(default_factory=lambda: LogLinearScheduler)
    """The scheduler class."""
    lr_final: float = MEANS_RATE_END
    """Rate at the end; the papers' 1.6e-6 for the means."""
    max_steps: int | None = None
    """Steps until `lr_final`; None = the run's --max-num-iterations (the official 7,000-step runs decay over 30,000
    and never reach it)."""

    BOUNDS: ClassVar[Bounds] = {"lr_final": POSITIVE, "max_steps": COUNT}


class LogLinearScheduler(Scheduler):
    """lr(k) = lr_init^(1-t) * lr_final^t with t = k / max_steps. Plain floats, so checkpoints hold no numpy scalar."""

    config: LogLinearSchedulerConfig

    def get_scheduler(self, optimizer: torch.optim.Optimizer, lr_init: float) -> LRScheduler:
        assert self.config.max_steps is not None, "GenFusionTrainer.setup_optimizers fills max_steps in"
        steps, ratio = self.config.max_steps, self.config.lr_final / lr_init
        return LambdaLR(optimizer, lambda k: log_linear(k, 1.0, ratio, steps))


def gaussian_optimizers() -> dict[str, Any]:
    """Optimisers by parameter, with 2DGS's rates (its extent factor is 1 in Nerfstudio's scaled world)."""
    optimizers: dict[str, Any] = {
        name: {"optimizer": GaussianAdamConfig(lr=rate), "scheduler": None} for name, rate in RATES.items()
    }
    optimizers["means"]["scheduler"] = LogLinearSchedulerConfig()
    return optimizers
