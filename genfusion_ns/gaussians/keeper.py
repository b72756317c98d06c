"""The splats as rounds may touch them: new ones are appended, and a bad round's training is taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from genfusion_ns.gaussians.edit import Optimizers, Params, State, append_splats, copy_splats, restore_splats


class SplatKeeper(Protocol):
    """Whoever holds the splats, as far as rounds need him."""

    sh_degree: int
    """Degree of the splats' colours."""

    def room(self) -> int:
        """How many more splats are allowed."""
        ...

    def append(self, new: dict[str, Tensor]) -> None:
        """Take new raw parameters, as `init_gaussians` makes them, on the CPU."""
        ...

    def keep(self) -> None:
        """Remember the splats as they are now."""
        ...

    def restore(self) -> None:
        """Go back to the splats that were last remembered, if any were."""
        ...


class TrainedSplats:
    """Splats in training with their optimisers and the densifier's statistics.

    Args:
        params, optimizers: edited in place.
        state: gives the densifier's statistics, which may be another dict after a checkpoint was loaded.
        max_gaussians: bound of `room`.
        kept: the remembered splats; the caller's own dict, to be put into checkpoints (plain names, CPU tensors).
    """

    def __init__(
        self,
        params: Params,
        optimizers: Optimizers,
        state: Callable[[], State],
        sh_degree: int,
        max_gaussians: int,
        kept: dict[str, Any],
    ) -> None:
        self.params, self.optimizers, self.state = params, optimizers, state
        self.sh_degree, self.max_gaussians, self.kept = sh_degree, max_gaussians, kept

    def room(self) -> int:
        """See `SplatKeeper`."""
        return self.max_gaussians - len(self.params["means"])

    def append(self, new: dict[str, Tensor]) -> None:
        """See `SplatKeeper`."""
        append_splats(self.params, self.optimizers, self.state(), new)

    def keep(self) -> None:
        """See `SplatKeeper`."""
        self.kept.clear()
        self.kept.update(copy_splats(self.params, self.optimizers, self.state()))

    @torch.no_grad()
    def restore(self) -> None:
        """See `SplatKeeper`."""
        if self.kept:
            restore_splats(self.params, self.optimizers, self.state(), self.kept)
