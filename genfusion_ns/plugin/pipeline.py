"""Order of calls in one training step: one captured view, and one generated view while the loop is active."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import profiler
from nerfstudio.utils.rich_utils import CONSOLE

from genfusion_ns.bounds import check_bounds
from genfusion_ns.errors import UserError
from genfusion_ns.gaussians.losses import psnr, ssim
from genfusion_ns.geometry import scene_extent
from genfusion_ns.loop.supervision.view_loss import generated_view_loss
from genfusion_ns.plugin import compat
from genfusion_ns.plugin.bridge import core_cameras
from genfusion_ns.plugin.clock import duration
from genfusion_ns.plugin.datamanager import GenFusionDataManager, GenFusionDataManagerConfig
from genfusion_ns.plugin.model import GenFusionModel, GenFusionModelConfig
from genfusion_ns.plugin.resume import check_finite
from genfusion_ns.raster import choose_rasterizer

COUNT_EVERY = 250
"""Steps between two counts of the captured views that see each splat, where a viewer shows it; each checkpoint counts
anew."""


@dataclass
class GenFusionPipelineConfig(VanillaPipelineConfig):
    """The datamanager (views, rounds) and the model (splats, losses)."""

    _target: type = field(default_factory=lambda: GenFusionPipeline)
    """The pipeline class."""
    datamanager: GenFusionDataManagerConfig = field(default_factory=GenFusionDataManagerConfig)
    """Photos, generated views and the rounds that make them."""
    model: GenFusionModelConfig = field(default_factory=GenFusionModelConfig)
    """The 2D Gaussians."""


class GenFusionPipeline(VanillaPipeline):
    """See `GenFusionPipelineConfig`."""

    config: GenFusionPipelineConfig
    datamanager: GenFusionDataManager

    def __init__(self, config: GenFusionPipelineConfig, device: str, *args: Any, **kwargs: Any) -> None:
        compat.check_command(sys.argv)
        compat.tame_ns_viewer(sys.argv)
        check_bounds(config, "pipeline.")  # of a config.yml that ns-eval and its kin load, too
        # what is wrong with the rasteriser should be known before photos are read and points are sought
        rasterizer = choose_rasterizer(config.model.rasterizer, device)
        super().__init__(config, device, *args, **kwargs)
        self.model.use_rasterizer(rasterizer)
        self.model.scene_extent = scene_extent(core_cameras(self.datamanager.train_dataset.cameras))
        self.rounds = self.datamanager.rounds.panel
        self.rounds.connect(self.model.wishes, core_cameras(self.datamanager.train_dataset.cameras))

    @property
    def model(self) -> GenFusionModel:
        return cast(GenFusionModel, super().model)

    @profiler.time_function
    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any]]:
        """Losses of this step's captured view, and of its generated view while lambda(step) > 0."""
        camera, batch = self.datamanager.next_train(step)
        outputs = self.model.render_outputs(camera)
        metrics = self.model.get_metrics_dict(outputs, batch)
        loss_dict = self.model.get_loss_dict(outputs, batch, metrics)
        generated = self.datamanager.next_generated(step)
        if generated is not None:
            frame, weight = generated
            depth_weight = self.datamanager.config.loop.depth_weight
            render = self.model.observed_render(frame.camera.to(self.model.device))
            loss_dict["generated"] = generated_view_loss(render, frame, weight, depth_weight)
            metrics["generated_weight"] = weight
        return outputs, loss_dict, metrics

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """The model's before the datamanager's: a step's gradients reach the densifier before a round adds splats."""
        return [
            *self.model.get_training_callbacks(training_callback_attributes),
            *self.datamanager.get_training_callbacks(training_callback_attributes),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.count_observers, COUNT_EVERY),
        ]

    def count_observers(self, step: int | None = None) -> None:
        """Find out anew which splats the captured views see; after a step only where a viewer shows it."""
        if step is not None and not self.model.wishes.looks_at_origins():
            return
        self.model.count_observers(self.datamanager.captured_cameras())

    def get_eval_image_metrics_and_images(self, step: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Nerfstudio's, of all splats whatever the viewer hides."""
        with self.model.wishes.set_aside():
            return super().get_eval_image_metrics_and_images(step)

    def get_eval_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Nerfstudio's, of all splats whatever the viewer hides."""
        with self.model.wishes.set_aside():
            return super().get_eval_loss_dict(step)

    def get_average_image_metrics(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Nerfstudio's means, less what is no number: one image has no deviation, and bare NaN is no valid JSON."""
        with self.model.wishes.set_aside():
            metrics = super().get_average_image_metrics(*args, **kwargs)
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    @torch.no_grad()
    def held_out_quality(self) -> tuple[float, float, int] | None:
        """Mean PSNR in dB and SSIM of the held-out photos, and their number: what ns-eval finds, without LPIPS, whose
        network may be neither here nor quick. None without such photos."""
        if not self.datamanager.holds_out:
            return None
        self.eval()
        found = []
        with self.model.wishes.set_aside():
            for camera, batch in self.datamanager.fixed_indices_eval_dataloader:
                outputs = self.model.get_outputs_for_camera(camera)
                target = self.model.composite_with_background(
                    self.model.get_gt_img(batch["image"]), outputs["background"]
                )
                found.append((psnr(outputs["rgb"], target), ssim(outputs["rgb"], target)))
        self.train()
        return *torch.tensor(found).mean(dim=0).tolist(), len(found)

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint, strictly: Nerfstudio would drop what does not fit without a word."""
        self.model.update_to_step(step)
        expected, found = set(self.state_dict()), set(loaded_state)
        if expected != found:
            raise UserError(
                f"The checkpoint is not of this method and version: missing {sorted(expected - found)[:10]}, "
                f"unexpected {sorted(found - expected)[:10]}. Load it with the version that wrote it, or train anew."
            )
        prefix = "_model.gauss_params."
        check_finite({name: value for name, value in loaded_state.items() if name.startswith(prefix)})
        self.load_state_dict(loaded_state, strict=True)

    def announce(self, first: int) -> None:
        """Say who renders and how long the run will take from step `first` (0-based) on, from the time of a few real
        steps without their update; rounds count as long as those of the checkpoint took."""
        model, views, coming = self.model, self.datamanager, self.datamanager.rounds
        self._probe(first)  # compiles kernels, which must not be timed
        start, probes = time.perf_counter(), 3
        for _ in range(probes):
            self._probe(first)
        rendered = 1 if views.next_generated(first) is None else 2
        seconds = (time.perf_counter() - start) / probes / rendered * coming.renders_after(first)
        rounds, reports = coming.rounds_after(first), views.loop_state.reports
        for report in reports:
            seconds += rounds * report.seconds / len(reports)
        unknown = f", and {rounds} rounds of generated views, whose time shows with the first" if rounds else ""
        CONSOLE.print(
            f"[bold]genfusion:[/] {model.rasterizer.name} rasteriser on {model.device}, {model.num_points:,} Gaussians"
            f", {len(views.train_dataset)} photos; about {duration(seconds)} for {coming.run_length - first:,} steps "
            f"(more as Gaussians are added){f' and {rounds} rounds' if rounds and reports else unknown}.",
            soft_wrap=True,
        )

    def _probe(self, step: int) -> None:
        """One step's forward and backward pass, without any trace."""
        self.train()
        _, loss_dict, _ = self.get_train_loss_dict(step)
        torch.stack(list(loss_dict.values())).sum().backward()
        self.model.discard_observations()
        for param in self.model.gauss_params.values():
            param.grad = None
