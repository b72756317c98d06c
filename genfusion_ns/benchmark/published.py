"""Published figures, to be printed beside ours: other data, other cameras and other first points than our rows have.

They are the tables of GenFusion (CVPR 2025) as later papers print them, and an independent run of its official code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One figure of a published table."""

    data: str
    """Data set and protocol."""
    split: str
    """Our name of the split that it corresponds to."""
    method: str
    psnr: float
    """dB."""
    ssim: float | None = None
    lpips_vgg_paper: float | None = None
    """LPIPS with VGG, images in [0, 1]."""
    source: str = "GenFusion's paper"


_MIP = "Mip-NeRF 360, 9 scenes, images_4, ReconFusion's splits"
_DL3DV = "DL3DV, 24 scenes, 960x540, moving quarter"
_TNT = "Tanks and Temples, moving quarter"
_AGAIN = "GSFixer's run of the official code"

_SPARSE: dict[str, tuple[tuple[float, float, float], ...]] = {
    "Zip-NeRF": ((12.77, 0.271, 0.705), (13.61, 0.284, 0.663), (14.30, 0.312, 0.633)),
    "FreeNeRF": ((12.87, 0.260, 0.715), (13.35, 0.283, 0.717), (14.59, 0.319, 0.695)),
    "SimpleNeRF": ((13.27, 0.283, 0.741), (13.67, 0.312, 0.721), (15.15, 0.354, 0.676)),
    "ZeroNVS": ((14.44, 0.316, 0.680), (15.51, 0.337, 0.663), (15.99, 0.350, 0.655)),
    "ReconFusion": ((15.50, 0.358, 0.585), (16.93, 0.401, 0.544), (18.19, 0.432, 0.511)),
    "3DGS": ((13.06, 0.251, 0.576), (14.96, 0.355, 0.505), (16.79, 0.447, 0.446)),
    "2DGS": ((13.07, 0.243, 0.580), (15.02, 0.338, 0.506), (16.67, 0.423, 0.449)),
    "FSGS": ((14.17, 0.318, 0.578), (16.12, 0.415, 0.517), (17.94, 0.492, 0.468)),
    "GenFusion": ((15.29, 0.369, 0.585), (17.16, 0.447, 0.500), (18.36, 0.496, 0.465)),
}
_MASKED: dict[str, tuple[tuple[str, str, float], ...]] = {
    "3DGS": (
        (_DL3DV, "masked-half", 17.22),
        (_DL3DV, "masked-quarter", 16.90),
        (_TNT, "masked-half", 15.95),
        (_TNT, "masked-quarter", 14.75),
    ),
    "2DGS": (
        (_DL3DV, "masked-half", 16.56),
        (_DL3DV, "masked-quarter", 16.02),
        (_TNT, "masked-half", 15.46),
        (_TNT, "masked-quarter", 14.38),
    ),
    "FSGS": (
        (_DL3DV, "masked-half", 18.25),
        (_DL3DV, "masked-quarter", 17.83),
        (_TNT, "masked-half", 16.72),
        (_TNT, "masked-quarter", 16.04),
    ),
    "GenFusion": (
        (_DL3DV, "masked-half", 20.47),
        (_DL3DV, "masked-quarter", 20.01),
        (_TNT, "masked-half", 17.45),
        (_TNT, "masked-quarter", 16.29),
    ),
}

_RERUN = ((15.03, 0.357, None), (16.90, 0.430, 0.494), (18.29, 0.489, 0.440))

PUBLISHED: tuple[Published, ...] = (
    *(
        Published(_MIP, split, method, *row)
        for method, rows in _SPARSE.items()
        for split, row in zip(("3", "6", "9"), rows, strict=True)
    ),
    *(
        Published(_MIP, split, "GenFusion", *row, source=_AGAIN)
        for split, row in zip(("3", "6", "9"), _RERUN, strict=True)
    ),
    *(Published(data, split, method, psnr) for method, rows in _MASKED.items() for data, split, psnr in rows),
)


def published_for(splits: Iterable[str]) -> list[Published]:
    """The published rows that stand beside these splits of ours; 'masked' stands beside both frame rates."""
    wanted = set(splits)
    if "masked" in wanted:
        wanted |= {"masked-half", "masked-quarter"}
    return [row for row in PUBLISHED if row.split in wanted]
