"""COLMAP models, reduced to what initial points need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genfusion_ns.data.views import FloatArray, IntArray


@dataclass(frozen=True)
class Tracks:
    """Which image saw which point where."""

    point: IntArray
    """[O] index of the observed point."""
    image: IntArray
    """[O] index of the observing image."""
    ray: FloatArray
    """[O, 2] normalised image coordinates x/z, y/z without lens distortion."""


@dataclass(frozen=True)
class ColmapModel:
    """A sparse reconstruction in its own world."""

    names: tuple[str, ...]
    """Image names, sorted."""
    c2w: FloatArray
    """[I, 4, 4] camera-to-world, OpenCV axes."""
    xyz: FloatArray
    """[P, 3] points."""
    rgb: NDArray[np.uint8]
    """[P, 3] colours."""
    tracks: Tracks
    """All observations; `image` counts `names`, `point` counts `xyz`."""


def find_model(scene: Path) -> Path | None:
    """The folder of the COLMAP model of a scene, None where there is none."""
    ...


def read_model(folder: Path) -> ColmapModel:
    """Read a COLMAP model (binary or text)."""
    ...
