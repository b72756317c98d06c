"""Reading a folder of parity data: inputs and outputs of the official networks at tiny sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from diffusion.convert.plan import Hints

# The recorded tolerances are what an independent implementation reached; tests allow ten times as much.
SLACK = 10.0


@dataclass
class Parity:
    """A folder of parity data. Sizes come from its config.json and its tensors, never from here."""

    folder: Path
    config: dict[str, Any]

    def io(self, name: str) -> dict[str, Tensor]:
        """Tensors of `<name>.safetensors`."""
        return load_file(self.folder / f"{name}.safetensors")

    def weights(self) -> dict[str, Tensor]:
        """The complete state dict, under the official names."""
        union: dict[str, Tensor] = {}
        for files in self.config["files"].values():
            for file in files:
                union |= load_file(self.folder / file)
        return union

    def shapes(self, size: str) -> dict[str, tuple[int, ...]]:
        """Official name -> shape; size is "full" or "tiny"."""
        listed = json.loads((self.folder / f"{size}_state_dict_shapes.json").read_text())
        return {name: tuple(shape) for name, (shape, _) in listed.items()}

    def hints(self) -> Hints:
        """What the tensors do not tell: numbers of heads."""
        vision = self.config["vision"]
        return Hints(
            clip_heads=vision["width"] // vision["head_width"],
            resampler_head_width=self.config["res"]["dim_head"],
        )


def gap(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; fails the test where the shapes differ."""
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    return float((a.double() - b.double()).abs().max())


def official_depth(disparity: Tensor) -> Tensor:
    """The official depth of arbitrary scale for a disparity in [0, 1]: 1 / (disparity + 1e-6), from about 1 to 1e6."""
    return 1.0 / (disparity + 1e-6)
