"""Shapes and types that every backend asks for, checked once at the door."""

from __future__ import annotations

from torch import Tensor

from genfusion_ns.raster.constants import SH_DEGREE_MAX


def check_inputs(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    sh_degree: int | None,
    background: Tensor | None,
) -> None:
    """Raise ValueError, naming the tensor, unless all shapes are those that `api.Rasterizer` lists, and all dtypes and
    devices those of `means`."""
    count = len(means)
    expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "means": (means, (count, 3)),
        "quats": (quats, (count, 4)),
        "scales": (scales, (count, 3)),
        "opacities": (opacities, (count,)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {list(shape)} ({count} Gaussians).")
    if sh_degree is None:
        if colors.dim() != 2 or len(colors) != count or colors.shape[1] == 0:
            raise ValueError(f"colors has shape {list(colors.shape)}, expected [{count}, C] when sh_degree is None.")
        channels = colors.shape[1]
    else:
        if not 0 <= sh_degree <= SH_DEGREE_MAX:
            raise ValueError(f"sh_degree is {sh_degree}, expected 0 to {SH_DEGREE_MAX}, or None for plain colours.")
        bands = (sh_degree + 1) ** 2
        if colors.dim() != 3 or len(colors) != count or colors.shape[1] < bands or colors.shape[2] != 3:
            raise ValueError(
                f"colors has shape {list(colors.shape)}, expected [{count}, K, 3] with K >= {bands} "
                f"for sh_degree {sh_degree}."
            )
        channels = 3
    typed = {name: tensor for name, (tensor, _) in expected.items()} | {"colors": colors}
    if background is not None:
        typed["background"] = background
    for name, tensor in typed.items():
        if tensor.dtype != means.dtype or tensor.device != means.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, expected {means.dtype} on {means.device} like means."
            )
    if background is not None and tuple(background.shape) != (channels,):
        raise ValueError(f"background has shape {list(background.shape)}, expected [{channels}].")
