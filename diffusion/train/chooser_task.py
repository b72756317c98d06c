"""The second run: the chooser learns, in minutes, which guess to believe where."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.evidence import TRUST
from diffusion.models.chooser import Chooser
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.train.batches import RepairBatch, forget_evidence
from diffusion.train.config import ChooserConfig
from diffusion.train.losses import log_frame_error
from diffusion.train.start import starting_pipeline


@dataclass
class ChooserTask:
    """What a step of the second run computes."""

    pipeline: RGBDVideoRepairPipeline
    networks: Chooser
    config: ChooserConfig

    @classmethod
    def fresh(cls, config: ChooserConfig) -> ChooserTask:
        """The pipeline that `config.start` names.

        Raises:
            UserError: there are no such weights, or they have no chooser.
        """
        pipeline = starting_pipeline(config)
        if pipeline.chooser is None:
            raise UserError(f"{config.start} has no chooser; expected weights or a configuration like lite-small")
        return cls(pipeline, pipeline.chooser, config)

    def loss(self, model: nn.Module, batch: RepairBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Mean logarithm of the frames' errors; a frame counts as far as no photo shows it for sure, since what to make
        of a captured frame teaches nothing about novel ones."""
        batch = forget_evidence(batch, self.config.evidence_dropout, generator)
        channels = self.pipeline.vae.config["in_channels"]
        output = model(batch.rendered[:, :channels], batch.opacity, batch.evidence)
        unsure = 1 - batch.evidence[:, TRUST].mean((2, 3))
        error = log_frame_error(output, batch.target[:, :channels], batch.depth_known, self.config.depth_weight, unsure)
        return error, {"pixel": float(error.detach())}
