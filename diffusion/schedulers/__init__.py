"""Noise schedules and samplers: DDIM as the official code runs it, and a few-step multistep solver."""

from diffusion.schedulers.ddim import RescaledDDIMScheduler
from diffusion.schedulers.few_step import RescaledDPMSolverScheduler

__all__ = ["RescaledDDIMScheduler", "RescaledDPMSolverScheduler"]
