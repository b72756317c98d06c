"""What a round changed, as one picture: the render, the repaired frame and its confidence, of the clip changed most."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genfusion_ns.loop.repairers.base import RGBDClip
from genfusion_ns.loop.supervision.refine import RefinedFrame

COLUMNS = 4
"""Frames shown, evenly spread over the clip."""


class MostChanged:
    """Watches a round's clips go by and keeps the one whose frames differ most from their renders."""

    def __init__(self) -> None:
        self.change = -1.0
        self._rows: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, rendered: RGBDClip, refined: Sequence[RefinedFrame]) -> None:
        """Look at one clip of T frames and what became of it."""
        after = torch.stack([frame.rgb for frame in refined]).clamp(0, 1)
        change = float((after - rendered.rgb).abs().mean())
        if change <= self.change:
            return
        self.change = change
        chosen = torch.linspace(0, len(refined) - 1, min(COLUMNS, len(refined))).round().long().tolist()
        confidence = torch.stack([refined[i].confidence for i in chosen])
        maps = rendered.rgb[chosen], after[chosen], confidence.expand(-1, -1, -1, 3).clamp(0, 1)
        self._rows = (maps[0].cpu(), maps[1].cpu(), maps[2].cpu())

    def sheet(self) -> Tensor | None:
        """[3 h, COLUMNS w, 3] in [0, 1] on the CPU: the rows before, after and confidence, white = believed; None if
        no clip came by."""
        if self._rows is None:
            return None
        return torch.cat([torch.cat(list(row), dim=1) for row in self._rows], dim=0)
