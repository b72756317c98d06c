"""What every 2D Gaussian rasteriser of this project takes and gives back.

Semantics, the same in all backends (2D Gaussian Splatting, arXiv 2403.17888, as gsplat 1.4.0 has it; the numbers stand
in `constants`):

* a splat is the disc spanned by the first two rotated axes, scaled by `scales[:, :2]`; `scales[:, 2]` is ignored;
* alpha = min(0.999, opacity * exp(-rho / 2)), rho = min(u^2 + v^2, 2 * |pixel - c|^2), where (u, v) is the point of the
  disc that the pixel's ray hits, in sigmas, and c the centre of the one-sigma ellipse's bounding box on the screen: a
  low-pass in screen space; contributions below 1/255 are skipped;
* a splat shows in the 16 x 16 tiles that a square of 3 half sides of that box, around c, touches, and is cut elsewhere;
* front to back in the order of the centres' camera z; a pixel stops before its transmittance would fall to 1e-4;
* depth is the centre's camera z, the same for all of a splat;
* centres with z <= `near` or z >= `far` are culled, and so is every splat that holds a NaN or an infinity, has a zero
  quaternion, or has no finite projection: it shows nowhere, and its gradients are zero;
* the result depends only on the splats as seen from the camera, not on the world frame (normals turn with it). The
  camera gets no gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.raster.constants import SH_DEGREE_MAX


@dataclass
class Render:
    """One rendered view. Every map is float, finite, and differentiable unless said otherwise."""

    color: Tensor
    """[H, W, C] colour over `background`; not clamped."""
    alpha: Tensor
    """[H, W, 1] accumulated opacity in [0, 1)."""
    depth: Tensor
    """[H, W, 1] expected z-depth, sum(w z) / alpha; 0 where nothing was hit."""
    median_depth: Tensor
    """[H, W, 1] z-depth of the last splat reached with transmittance > 0.5; 0 where nothing was hit."""
    normal: Tensor
    """[H, W, 3] sum of w * n in world axes, n facing the camera; length <= alpha."""
    distortion: Tensor
    """[H, W, 1] gsplat's depth distortion, 2 * sum_{j<i} w_i w_j (z_i - z_j)."""
    radii: Tensor
    """[N] int32 screen radius in pixels (three sigmas, rounded up), 0 = not visible; carries no gradient."""
    densify_signal: Tensor
    """[N, 2] zeros that require grad; after backward `.grad` holds each splat's positional gradient on the screen, in
    gsplat's definition (`meta["gradient_2dgs"]`), the densifier's signal."""


class Splats(NamedTuple):
    """N Gaussians, ready to render."""

    means: Tensor
    """[N, 3] world."""
    quats: Tensor
    """[N, 4] wxyz, any non-zero norm."""
    scales: Tensor
    """[N, 3] world units, >= 0; the third is ignored."""
    opacities: Tensor
    """[N] in [0, 1]."""
    colors: Tensor
    """[N, K, 3] SH coefficients, or [N, C] plain features."""


class Rasterizer(ABC):
    """Renders 2D Gaussians into one camera."""

    name: str

    def __call__(
        self,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        camera: Camera,
        *,
        sh_degree: int | None,
        background: Tensor | None = None,
        near: float = 0.01,
        far: float = 1e10,
    ) -> Render:
        """Render one view.

        Args:
            means, quats, scales, opacities, colors: see `Splats`.
            sh_degree: uses the first (sh_degree + 1)^2 coefficients, colour = max(SH + 0.5, 0); None = plain features.
            background: [C]; None = black.

        Raises:
            ValueError: shapes, dtypes or devices do not fit together.
        """
        splats = Splats(means, quats, scales, opacities, colors)
        check_inputs(splats, sh_degree, background)
        return self.render(splats, camera.to(means.device, means.dtype), sh_degree, background, near, far)

    @abstractmethod
    def render(
        self, splats: Splats, camera: Camera, sh_degree: int | None, background: Tensor | None, near: float, far: float
    ) -> Render:
        """As `__call__`, with arguments that were checked, and a camera of the Gaussians' dtype and device."""


def check_inputs(splats: Splats, sh_degree: int | None, background: Tensor | None) -> None:
    """Raise ValueError, naming the tensor, unless all shapes are those of `Splats`, and all dtypes and devices those
    of `means`."""
    means, colors, count = splats.means, splats.colors, len(splats.means)
    shapes = {"means": (count, 3), "quats": (count, 4), "scales": (count, 3), "opacities": (count,)}
    for name, shape in shapes.items():
        found = tuple(getattr(splats, name).shape)
        if found != shape:
            raise ValueError(f"{name} has shape {list(found)}, expected {list(shape)} ({count} Gaussians).")
    if sh_degree is None:
        if colors.dim() != 2 or len(colors) != count or colors.shape[1] == 0:
            raise ValueError(f"colors has shape {list(colors.shape)}, expected [{count}, C] when sh_degree is None.")
    else:
        if not 0 <= sh_degree <= SH_DEGREE_MAX:
            raise ValueError(f"sh_degree is {sh_degree}, expected 0 to {SH_DEGREE_MAX}, or None for plain colours.")
        bands = (sh_degree + 1) ** 2
        if colors.dim() != 3 or len(colors) != count or colors.shape[1] < bands or colors.shape[2] != 3:
            raise ValueError(
                f"colors has shape {list(colors.shape)}, expected [{count}, K, 3] with K >= {bands} "
                f"for sh_degree {sh_degree}."
            )
    typed = splats._asdict() | ({} if background is None else {"background": background})
    for name, tensor in typed.items():
        if tensor.dtype != means.dtype or tensor.device != means.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, expected {means.dtype} on {means.device} like means."
            )
    if background is not None and background.shape != colors.shape[-1:]:
        raise ValueError(f"background has shape {list(background.shape)}, expected [{colors.shape[-1]}].")
