"""Noise schedules and samplers: DDIM as the official code runs it, and a few-step multistep solver."""

from diffusion.schedulers.ddim import RescaledDDIMScheduler
from diffusion.schedulers.few_step import RescaledDPMSolverScheduler, make_few_step_scheduler

__all__ = ["RescaledDDIMScheduler", "RescaledDPMSolverScheduler", "make_few_step_scheduler"]
