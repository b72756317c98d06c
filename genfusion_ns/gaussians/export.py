"""Splats as files for other viewers: .ply as 3D Gaussian Splatting writes it, .spz for the web."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement
from torch import Tensor

from genfusion_ns.errors import UserError

ALL_BUT_TRANSPARENT = 1 / 255
"""Splats of less opacity than this cannot be seen in 8 bits, and are left out."""


def exportable(params: Mapping[str, Tensor]) -> Tensor:
    """[N] bool: splats whose numbers are all finite and whose opacity can be seen.

    Args:
        params: raw parameters, see `gaussians.parameters`.
    """
    finite = torch.stack([value.flatten(1).isfinite().all(1) for value in params.values()]).all(0)
    return finite & (torch.sigmoid(params["opacities"][:, 0]) >= ALL_BUT_TRANSPARENT)


def ply_table(params: Mapping[str, Tensor], provenance: Tensor | None = None) -> NDArray[Any]:
    """[N] records with the properties of 3D Gaussian Splatting's .ply (Kerbl et al. 2023).

    Args:
        params: raw parameters, N splats.
        provenance: [N] index into `provenance.CLASSES`; makes a last property `provenance` (uchar).
    """
    rest = params["features_rest"].transpose(1, 2).flatten(1)  # all of red's coefficients first
    columns = {
        **_numbered(("x", "y", "z"), params["means"]),
        **_numbered(("nx", "ny", "nz"), torch.zeros_like(params["means"])),
        **_numbered([f"f_dc_{i}" for i in range(3)], params["features_dc"]),
        **_numbered([f"f_rest_{i}" for i in range(rest.shape[1])], rest),
        "opacity": params["opacities"][:, 0],
        **_numbered([f"scale_{i}" for i in range(3)], params["scales"]),
        **_numbered([f"rot_{i}" for i in range(4)], torch.nn.functional.normalize(params["quats"], dim=-1)),
    }
    kinds = [(name, "<f4") for name in columns]
    if provenance is not None:
        columns["provenance"] = provenance
        kinds.append(("provenance", "u1"))
    table = np.empty(len(params["means"]), dtype=kinds)
    for name, values in columns.items():
        table[name] = values.detach().cpu().numpy()
    return table


def write_ply(path: Path, table: NDArray[Any]) -> None:
    """Write records as the vertices of a binary little-endian .ply."""
    PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(str(path))


def write_spz(path: Path, params: Mapping[str, Tensor]) -> None:
    """Write Niantic's .spz, a tenth of the .ply's size.

    Raises:
        UserError: the package gsply is not installed.
    """
    try:
        import gsply  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f".spz needs the package gsply, which cannot be imported here ({error}). Install it with `pip install "
            "'genfusion-ns[web]'`, or write a .ply."
        ) from error
    arrays = {name: value.detach().float().cpu().numpy() for name, value in params.items()}
    names = "means", "scales", "quats", "opacities", "features_dc", "features_rest"
    means, scales, quats, opacities, sh0, rest = (np.ascontiguousarray(arrays[name]) for name in names)
    quats = quats / np.linalg.norm(quats, axis=-1, keepdims=True)
    gsply.write_spz(path, gsply.GSData(means, scales, quats, opacities[:, 0].copy(), sh0, rest))


def _numbered(names: Any, values: Tensor) -> dict[str, Tensor]:
    return dict(zip(names, values.unbind(1), strict=True))
