"""2D Gaussian Splatting as a Nerfstudio model.

It is a `SplatfactoModel` because ns-export, the viewer and ns-render ask for one by class; parameters keep its six
names, everything that renders or trains is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.utils.colors import get_color
from torch import Tensor
from torch.nn import Parameter
from torchmetrics.image import PeakSignalNoiseRatio

from genfusion_ns import schedule
from genfusion_ns.bounds import ANY, COUNT, NATURAL, POSITIVE, SHARE, Bound, Bounds
from genfusion_ns.cameras import Camera
from genfusion_ns.gaussians import losses, provenance
from genfusion_ns.gaussians.densify_sparse import SparsityAwareDensifier
from genfusion_ns.gaussians.keeper import TrainedSplats
from genfusion_ns.gaussians.parameters import activate, init_gaussians, random_points
from genfusion_ns.plugin import compat
from genfusion_ns.plugin.bridge import core_camera
from genfusion_ns.plugin.image_metrics import image_metrics
from genfusion_ns.plugin.wishes import ViewerWishes
from genfusion_ns.raster import choose_rasterizer
from genfusion_ns.raster.api import Rasterizer, Render
from genfusion_ns.seeding import generator

NORMALS_KEY = "points3D_normals"
"""Where the datamanager's metadata holds the normals [N, 3] of the seed points."""


@dataclass
class GenFusionModelConfig(ModelConfig):
    """2DGS: surfels, their losses and their growth. Step numbers count at `reference_iterations` and are scaled with
    --max-num-iterations."""

    _target: type = field(default_factory=lambda: GenFusionModel)
    """The model class."""
    enable_collider: bool = False
    """Nerfstudio's near/far collider; it works on rays, which splats have none of."""
    reference_iterations: int = 7000
    """Length of the run that all step numbers below refer to; 7,000 is the official sparse and masked preset's."""
    rasterizer: Literal["auto", "gsplat", "numba", "torch"] = "auto"
    """Who renders: gsplat's CUDA kernels, our CPU kernels, or the readable reference; auto = the fastest that runs."""
    near: float = 0.01
    """Splats closer to the camera than this (scaled world, cameras within +-1) are not drawn; gsplat's default."""
    sh_degree: int = 3
    """Highest degree of the view-dependent colour; 0 trains a third faster and looks flatter."""
    sh_degree_interval: int = 1000
    """One more degree every so many steps, the papers' schedule."""
    background_color: Literal["random", "black", "white"] = "random"
    """Colour behind the splats; random in training makes holes cost, so that surfaces close (splatfacto's default)."""
    num_random: int = 20000
    """Splats to begin with where neither photos nor a point cloud give any."""
    ssim_lambda: float = 0.2
    """Weight of 1 - SSIM against L1 in the photo loss; 0.2 in 2DGS, 0.5 in the official sparse preset."""
    distortion_lambda: float = 0.0
    """Weight of the depth distortion, which pulls a ray's splats together; 0 as 2DGS's own default. gsplat's 1e-2 makes
    flatter surfaces for meshes and cost 0.4 dB of held-out PSNR on a forward-facing capture (llff_fern)."""
    distortion_start: int = 1400
    """First step of the distortion term; it needs a rough surface first."""
    normal_lambda: float = 0.05
    """Weight of the agreement between splat normals and the rendered depth's normals; 2DGS's value."""
    normal_start: int = 2000
    """First step of the normal term."""
    opacity_lambda: float = 0.08
    """Weight of the splats' mean opacity, divided by the number of photos: what no photo needs fades. 0 leaves the
    floaters of few photos."""
    opacity_start: int = 1400
    """First step of the opacity term; before it surfaces behind a floater would fade along with it."""
    densifier: SparsityAwareDensifier = field(default_factory=SparsityAwareDensifier)
    """How splats are added and removed."""
    camera_optimizer: CameraOptimizerConfig = field(default_factory=lambda: CameraOptimizerConfig(mode="off"))
    """Not used, and kept so that configurations of Splatfacto load: poses are not optimised."""
    seed: int = 42
    """All random numbers of the model follow from (seed, step), so that a resumed run draws the same ones."""

    BOUNDS: ClassVar[Bounds] = {
        "reference_iterations": COUNT,
        "near": POSITIVE,
        "sh_degree": Bound(0, 3),
        "sh_degree_interval": NATURAL,
        "num_random": COUNT,
        "ssim_lambda": SHARE,
        "distortion_lambda": NATURAL,
        "distortion_start": NATURAL,
        "normal_lambda": NATURAL,
        "normal_start": NATURAL,
        "opacity_lambda": NATURAL,
        "opacity_start": NATURAL,
        "seed": ANY,
        "eval_num_rays_per_chunk": COUNT,
    }


class GenFusionModel(SplatfactoModel):
    """See `GenFusionModelConfig`."""

    config: GenFusionModelConfig  # type: ignore[assignment]

    def populate_modules(self) -> None:
        """Gaussians from the seed points, metrics, rasteriser; no download and no `.cuda()`."""
        config = self.config
        if self.seed_points is not None and self.seed_points[0].shape[0] > 0:
            xyz, rgb = self.seed_points[0], self.seed_points[1].float() / 255.0
        else:
            xyz, rgb = random_points(config.num_random, half_side=1.0, seed=config.seed)
        normals = self.kwargs.get("metadata", {}).get(NORMALS_KEY)
        initial = init_gaussians(xyz, rgb, sh_degree=config.sh_degree, seed=config.seed, normals=normals)
        self.gauss_params = torch.nn.ParameterDict({name: Parameter(value) for name, value in initial.items()})
        self.psnr = PeakSignalNoiseRatio(data_range=1.0)
        self.lpips = compat.LazyLpips()
        self.step = 0
        self.crop_box = None
        # Behind renders only, never behind training views; the viewer may set its own.
        self.background_color = (
            torch.zeros(3) if config.background_color == "random" else get_color(config.background_color)
        )
        self.run_length = config.reference_iterations
        self.densifier = config.densifier
        # Unit of length for the densifier; the pipeline, which knows the cameras, sets it.
        self.scene_extent = 1.0
        self.densifier_state = config.densifier.initialize_state(self.num_points)
        self.densifier_state |= provenance.fresh_origins(self.num_points)
        # The splats as they were before the last round of the loop, to go back to; empty before the first.
        self.kept_splats: dict[str, Any] = {}
        self.wishes = ViewerWishes()
        self._rasterizer = None
        self._observed: list[Render] = []

    # -- what the trainer and the pipeline need --------------------------------------------------------------------

    @property
    def rasterizer(self) -> Any:
        """The rasteriser, chosen once, when the device is known."""
        if self._rasterizer is None:
            self._rasterizer = choose_rasterizer(self.config.rasterizer, self.device)
        return self._rasterizer

    def use_rasterizer(self, rasterizer: Rasterizer) -> None:
        """Render with one that has been chosen already."""
        self._rasterizer = rasterizer

    def set_run_length(self, max_num_iterations: int) -> None:
        """Scale all step numbers of the config to a run of so many steps."""
        self.run_length = max_num_iterations
        self.densifier = self.config.densifier.scaled_to(max_num_iterations, self.config.reference_iterations)

    def scaled(self, steps: int) -> int:
        """A step number of the config in this run's steps."""
        return schedule.scaled(steps, self.run_length, self.config.reference_iterations)

    def discard_observations(self) -> None:
        """Forget this step's renders, so that a bad gradient never reaches the densifier."""
        self._observed.clear()

    def trained_splats(self) -> TrainedSplats:
        """The splats as the loop may touch them; only while training, when there are optimisers."""
        return TrainedSplats(
            self.gauss_params,
            self.optimizers,
            lambda: self.densifier_state,
            self.config.sh_degree,
            self.config.densifier.max_gaussians,
            self.kept_splats,
        )

    @torch.no_grad()
    def count_observers(self, cameras: Sequence[Camera]) -> None:
        """Bring the bookkeeping of who sees which splat up to date (`provenance.count_observers`)."""
        splats = activate(self._params())
        self.densifier_state["seen_by"] = provenance.count_observers(splats, cameras, self.rasterizer, self.config.near)

    def origins(self) -> dict[str, float]:
        """Shares of the splats that are observed, repaired and invented (`provenance`)."""
        kinds = provenance.classify(self.densifier_state)
        return {name: float((kinds == i).float().mean()) for i, name in enumerate(provenance.CLASSES)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GenFusionModel:
        """The splats' statistics move along to another device; they are no buffers, since their number changes."""
        super()._apply(fn, recurse)
        self.densifier_state = {name: fn(values) for name, values in self.densifier_state.items()}
        return self

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """Statistics of the splats, and the splats to go back to: tensors and plain scalars."""
        return {"densifier": self.densifier_state, "kept_splats": self.kept_splats}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        saved = provenance.completed(state["densifier"])
        self.densifier_state = {name: values.to(self.device) for name, values in saved.items()}
        self.kept_splats.clear()
        self.kept_splats.update(state["kept_splats"])
        if self.kept_splats:
            self.kept_splats["state"] = provenance.completed(self.kept_splats["state"])

    def load_state_dict(self, dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Load any number of Gaussians into the Parameters that the optimisers already hold."""
        compat.resize_gaussians_in_place(self.gauss_params, dict, prefix="gauss_params.")
        return Model.load_state_dict(self, dict, **kwargs)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return self.get_gaussian_param_groups()

    # -- training ------------------------------------------------------------------------------------------------

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        optimizers = training_callback_attributes.optimizers
        return [
            TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self.step_cb, args=[optimizers]),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.step_post_backward),
        ]

    def step_post_backward(self, step: int) -> None:
        """Feed the densifier with this step's screen gradients, and let it act on its events."""
        for number, render in enumerate(self._observed):
            gradient = render.densify_signal.grad
            if gradient is None:
                continue
            # Generated views (all but the first) speak only for splats that no captured view shows: where both see a
            # splat, their weaker gradients would water the captured ones down.
            generated = number > 0
            radii = render.radii * (self.densifier_state["captured"] == 0) if generated else render.radii
            height, width = render.alpha.shape[:2]
            self.densifier.observe(self.densifier_state, gradient, radii, width, height, generated=generated)
        self._observed.clear()
        self.densifier.step(
            self.gauss_params, self.optimizers, self.densifier_state, step + 1, self.scene_extent, self.config.seed
        )

    def _get_background_color(self) -> Tensor:
        if self.config.background_color == "random" and self.training:
            return torch.rand(3, generator=generator(self.config.seed, "background", self.step)).to(self.device)
        return self.background_color.to(self.device)

    # -- rendering -----------------------------------------------------------------------------------------------

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        """Render one Nerfstudio camera; images are [H, W, C], normals mapped to [0, 1] outside of training."""
        return self.render_outputs(core_camera(camera, self.device))

    def render_outputs(self, camera: Camera) -> dict[str, Any]:
        """Nerfstudio's output dictionary for a core `Camera`; in training it holds the `Render` instead of maps."""
        background = self._get_background_color()
        if self.training:
            render = self.observed_render(camera, background)
            return {
                "rgb": render.color.clamp(0.0, 1.0),
                "accumulation": render.alpha,
                "background": background,
                "render": render,
                "camera": camera,
            }
        inside = None if self.crop_box is None else self.crop_box.within(self.means).squeeze(-1)
        rows = self.wishes.visible(self.densifier_state, inside)
        render = self.render(camera, background, rows)
        outputs = {
            "rgb": render.color.clamp(0.0, 1.0),
            # Holes go behind everything else, as splatfacto does: depth 0 would hide the viewer's frusta.
            "depth": torch.where(render.alpha > 0, render.depth, render.depth.max()),
            "accumulation": render.alpha,
            "normal": (render.normal + 1.0) / 2.0,
            "background": background.expand(*render.color.shape),
        }
        return outputs | self._origin_maps(camera, rows)

    def _origin_maps(self, camera: Camera, rows: Tensor | None) -> dict[str, Tensor]:
        """`coverage` [H, W, 1] and `trust` [H, W, 3] (`provenance.maps`), one more render; black where nobody looks."""
        if not self.wishes.wants("coverage", "trust"):
            return provenance.maps(torch.zeros(camera.height, camera.width, 4, device=self.device))
        features = provenance.features(self.densifier_state)
        chosen = features if rows is None else features[rows]
        splats, near = activate(self._params(rows)), self.config.near
        return provenance.maps(self.rasterizer(*splats[:4], chosen, camera, sh_degree=None, near=near).color)

    def observed_render(self, camera: Camera, background: Tensor | None = None) -> Render:
        """A render of this training step; its screen gradients reach the densifier after backward."""
        render = self.render(camera, background)
        self._observed.append(render)
        return render

    def _params(self, rows: Tensor | None = None) -> dict[str, Tensor]:
        """Raw parameters of the splats in `rows` [N] bool, or of all."""
        return {name: value if rows is None else value[rows] for name, value in self.gauss_params.items()}

    def render(self, camera: Camera, background: Tensor | None = None, rows: Tensor | None = None) -> Render:
        """Rasterise the Gaussians over `background` [3] (None = black); all, or those in `rows` [N] bool."""
        splats, near = activate(self._params(rows)), self.config.near
        return self.rasterizer(*splats, camera, sh_degree=self.sh_degree_now(), background=background, near=near)

    def sh_degree_now(self) -> int:
        """Degree of the colour at this step; the full one outside of training."""
        if not self.training:
            return self.config.sh_degree
        return schedule.sh_degree(self.step, self.config.sh_degree, self.scaled(self.config.sh_degree_interval))

    # -- losses and metrics --------------------------------------------------------------------------------------

    def get_gt_img(self, image: Tensor) -> Tensor:
        """A photo as float [H, W, 3|4] in [0, 1] on the training device, at its full size."""
        image = image.to(self.device)
        return image.float() / 255.0 if image.dtype == torch.uint8 else image

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        target = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        with torch.no_grad():
            return {"psnr": losses.psnr(outputs["rgb"], target), "gaussian_count": self.num_points}

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Photo loss, and in training the surface terms of 2DGS and the cost of opacity once their steps have come."""
        target = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        mask = batch["mask"].to(self.device) if "mask" in batch else None
        loss_dict = {"photo": losses.photometric(outputs["rgb"], target, self.config.ssim_lambda, mask)}
        if "render" in outputs:
            config = self.config
            distortion = self._due(config.distortion_lambda, config.distortion_start)
            normal = self._due(config.normal_lambda, config.normal_start)
            loss_dict |= losses.surface_terms(outputs["render"], outputs["camera"], distortion, normal)
            if opacity := self._due(config.opacity_lambda, config.opacity_start):
                cost = losses.opacity_cost(self.gauss_params["opacities"], self.num_train_data)
                loss_dict["opacity"] = opacity * cost
        return loss_dict

    def _due(self, weight: float, start: int) -> float:
        """A weight whose term begins at step `start` of the config."""
        return weight if self.step >= self.scaled(start) else 0.0

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR, SSIM, and LPIPS where its weights are at hand; pictures for the writers."""
        target = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        return image_metrics(outputs, target, self.psnr, self.lpips)
