"""A 2DGS fit without Nerfstudio: the plugin's rasteriser, losses, rates and densifier in a plain loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import Parameter

from genfusion_ns import schedule
from genfusion_ns.cameras import Camera
from genfusion_ns.gaussians import losses
from genfusion_ns.gaussians.densify_sparse import SparsityAwareDensifier
from genfusion_ns.gaussians.edit import Optimizers
from genfusion_ns.gaussians.parameters import MEANS_RATE_END, RATES, activate, init_gaussians
from genfusion_ns.geometry import scene_extent
from genfusion_ns.raster.api import Rasterizer, Render
from genfusion_ns.seeding import generator, order_index


@dataclass(frozen=True)
class FitView:
    """What the fit sees of one view."""

    camera: Camera
    """float32 camera of `rgb`."""
    rgb: Tensor
    """[H, W, 3] photo in [0, 1]."""
    mask: Tensor | None = None
    """[H, W, 1] 1 = known, 0 = hidden; None = all known."""


@dataclass(frozen=True)
class FitConfig:
    """Numbers of the fit: those of the plugin's presets, so that its artifacts are those that the loop meets."""

    run_length: int = 2000
    """Steps of the imagined whole run, of which the fit does the first ones; the CPU preset's 2000."""
    reference: int = 7000
    """Length of the run that the step numbers below are written for."""
    sh_degree: int = 3
    """Highest degree of the colour's spherical harmonics."""
    sh_degree_interval: int = 1000
    """One degree more every so many (reference) steps."""
    ssim_lambda: float = 0.2
    """Weight of 1 - SSIM against L1."""
    normal_lambda: float = 0.05
    """Weight of the normal term."""
    normal_start: int = 2000
    """First (reference) step of the normal term."""
    opacity_lambda: float = 0.08
    """Weight of the splats' mean opacity, divided by the number of views."""
    opacity_start: int = 1400
    """First (reference) step of the opacity term."""
    near: float = 0.01
    """Splats nearer than this are not drawn."""
    densifier: SparsityAwareDensifier = field(
        default_factory=lambda: SparsityAwareDensifier(
            start=500, stop=5000, every=100, reset_every=0, max_gaussians=7000
        )
    )
    """How splats grow; 7000 are enough for 160 x 96 pixels and keep a step at some 10 ms."""
    seed: int = 0
    """All random numbers follow from it and the step."""


class Fit:
    """Splats in training; `advance` trains, `render` looks at them."""

    def __init__(
        self,
        views: Sequence[FitView],
        xyz: Tensor,
        rgb: Tensor,
        rasterizer: Rasterizer,
        config: FitConfig | None = None,
        normals: Tensor | None = None,
    ) -> None:
        """Begin at points [P, 3] with colours [P, 3] in [0, 1] and, where they are known, normals [P, 3].

        Raises:
            UserError: no finite point.
            ValueError: no view.
        """
        if not views:
            raise ValueError("a fit needs at least one view")
        self.config = config or FitConfig()
        self.views = list(views)
        self.rasterizer = rasterizer
        initial = init_gaussians(xyz, rgb, self.config.sh_degree, seed=self.config.seed, normals=normals)
        self.params = {name: Parameter(value) for name, value in initial.items()}
        self.rate_factor = schedule.rate_factor(self.config.run_length, self.config.reference)
        self.optimizers: Optimizers = {
            name: torch.optim.Adam([value], lr=self.rate_factor * RATES[name], eps=1e-15, fused=True)
            for name, value in self.params.items()
        }
        self.densifier = self.config.densifier.scaled_to(self.config.run_length, self.config.reference)
        self.state = self.densifier.initialize_state(len(initial["means"]))
        self.extent = scene_extent([view.camera for view in self.views])
        self.step = 0

    def advance(self, until: int) -> None:
        """Train up to step `until`."""
        while self.step < until:
            self._train_step()
            self.step += 1

    @torch.no_grad()
    def render(self, camera: Camera) -> Render:
        """The splats over black, in all degrees of colour."""
        return self._rasterize(camera, self.config.sh_degree, None)

    def _rasterize(self, camera: Camera, degree: int, background: Tensor | None) -> Render:
        splats = activate(self.params)
        return self.rasterizer(*splats, camera, sh_degree=degree, background=background, near=self.config.near)

    def _scaled(self, steps: int) -> int:
        return schedule.scaled(steps, self.config.run_length, self.config.reference)

    def _train_step(self) -> None:
        config, step = self.config, self.step
        view = self.views[order_index(len(self.views), config.seed, step, "train view")]
        background = torch.rand(3, generator=generator(config.seed, "background", step))
        degree = schedule.sh_degree(step, config.sh_degree, self._scaled(config.sh_degree_interval))
        render = self._rasterize(view.camera, degree, background)
        loss = losses.photometric(render.color.clamp(0, 1), view.rgb, config.ssim_lambda, view.mask)
        normal = config.normal_lambda if step >= self._scaled(config.normal_start) else 0.0
        loss = sum(losses.surface_terms(render, view.camera, 0.0, normal).values(), loss)
        if step >= self._scaled(config.opacity_start):
            loss = loss + config.opacity_lambda * losses.opacity_cost(self.params["opacities"], len(self.views))
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        rate = schedule.log_linear(step, RATES["means"], MEANS_RATE_END, config.run_length)
        self.optimizers["means"].param_groups[0]["lr"] = self.rate_factor * rate
        for optimizer in self.optimizers.values():
            optimizer.step()
        signal = render.densify_signal.grad
        if signal is not None:
            self.densifier.observe(self.state, signal, render.radii, view.camera.width, view.camera.height)
        self.densifier.step(self.params, self.optimizers, self.state, step + 1, self.extent, config.seed)


def snapshots(fit: Fit, steps: Sequence[int]) -> Iterator[int]:
    """Train up to each of `steps` in turn and yield it, for the caller to render."""
    for step in sorted(set(steps)):
        fit.advance(step)
        yield step


def capped(config: FitConfig, splats: int) -> FitConfig:
    """The same fit with at most `splats` splats."""
    return replace(config, densifier=replace(config.densifier, max_gaussians=splats))
