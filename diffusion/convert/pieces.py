"""What the planners of the single networks share: where each converted tensor comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion.errors import UserError

Shape = tuple[int, ...]


class Shapes(dict[str, Shape]):
    """Shapes of one network's tensors in a checkpoint, by name. A missing name is the user's mistake."""

    def __init__(self, shapes: Mapping[str, Shape], prefix: str, network: str) -> None:
        super().__init__({k.removeprefix(prefix): v for k, v in shapes.items() if k.startswith(prefix)})
        self.prefix = prefix
        self.network = network

    def __missing__(self, name: str) -> Shape:
        raise UserError(
            f"the checkpoint has no tensor {self.prefix}{name}, without which the {self.network} cannot be built; "
            "expected GenFusion's or DynamiCrafter's own checkpoint file, complete."
        )

    def count(self, pattern: str) -> int:
        """Length of a numbered list: the smallest n for which no name starts with `pattern.format(n)`."""
        number = 0
        while any(name.startswith(pattern.format(number)) for name in self):
            number += 1
        return number


@dataclass(frozen=True)
class Piece:
    """One converted tensor: all or part of a checkpoint's tensor."""

    source: str
    """Name in the checkpoint, without the network's prefix."""
    part: tuple[int, int] | None = None
    """(i, n): the i-th of n equal parts along the first axis; None = all of it."""
    rank: int | None = None
    """Number of axes to keep; the ones after them have length 1. None = all."""
    gain: str | None = None
    """Name of a learned scalar a; the tensor is multiplied by 1 + tanh(a). None = as it is."""

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """Shape of the converted tensor, from the shapes in the checkpoint."""
        full = shapes[self.source]
        if self.part is not None:
            full = (full[0] // self.part[1], *full[1:])
        dropped = full[self.rank :] if self.rank is not None else ()
        return full[: self.rank] if all(side == 1 for side in dropped) else full

    def build(self, read: Callable[[str], Tensor]) -> Tensor:
        """The converted tensor; `read` returns a checkpoint's tensor by name."""
        tensor = read(self.source)
        if self.part is not None:
            tensor = tensor.chunk(self.part[1])[self.part[0]]
        tensor = tensor.reshape(tensor.shape[: self.rank])
        return tensor if self.gain is None else tensor * (1 + torch.tanh(read(self.gain)).to(tensor.dtype))


@dataclass
class NetworkPlan:
    """How one network is made from a checkpoint."""

    folder: str
    """Its folder in the pipeline, e.g. "unet"."""
    prefix: str
    """What its names start with in the checkpoint."""
    model: nn.Module
    """The network on the meta device: it says which tensors are expected, and holds the configuration."""
    pieces: dict[str, Piece]
    """Converted name -> where it comes from."""

    @property
    def parameters(self) -> int:
        """Number of values in all tensors."""
        return sum(tensor.numel() for tensor in self.model.state_dict().values())

    def sources(self) -> set[str]:
        """The checkpoint's names that this network uses, with their prefix."""
        used = {piece.source for piece in self.pieces.values()}
        used |= {piece.gain for piece in self.pieces.values() if piece.gain is not None}
        return {self.prefix + name for name in used}


def rename(name: str, table: Iterable[tuple[str, str]]) -> str:
    """Replace the first prefix of the table that the name starts with; unchanged if there is none."""
    for old, new in table:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def on_meta(build: Callable[[], nn.Module], network: str) -> nn.Module:
    """Build a network without memory. Raises UserError where the inferred sizes make none."""
    try:
        with torch.device("meta"):
            return build()
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(
            f"the checkpoint's tensors make no {network}: {error}. Expected GenFusion's or DynamiCrafter's sizes."
        ) from error
