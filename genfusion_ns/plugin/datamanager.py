"""The views that a training step sees: captured ones in an order fixed by (seed, step), and the loop's generated ones.

It checks what any dataparser hands over, crops and resizes the photos, finds initial points, owns the loop's state and
asks for a round every K steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.utils.rich_utils import CONSOLE

from genfusion_ns.cameras import Camera
from genfusion_ns.data.colmap import find_model, read_model
from genfusion_ns.data.mask import Window
from genfusion_ns.data.views import TrainView
from genfusion_ns.files import write_errors
from genfusion_ns.loop.contact_sheet import MostChanged
from genfusion_ns.loop.round import CapturedViews, Loop
from genfusion_ns.loop.round_table import round_line, round_table
from genfusion_ns.loop.state import LoopState
from genfusion_ns.loop.supervision.gate import held_out
from genfusion_ns.loop.view_buffer import GeneratedFrame
from genfusion_ns.plugin import compat, train_photos
from genfusion_ns.plugin.bridge import core_cameras
from genfusion_ns.plugin.clock import Clock, duration
from genfusion_ns.plugin.data_config import GenFusionDataManagerConfig
from genfusion_ns.plugin.dataparser import subset
from genfusion_ns.plugin.first_splats import find_depth, seed_points
from genfusion_ns.plugin.model import NORMALS_KEY, GenFusionModel
from genfusion_ns.plugin.panel import RoundsPanel, round_steps_after
from genfusion_ns.plugin.round_log import log_round
from genfusion_ns.seeding import order_index
from genfusion_ns.stereo.capture_depth import CaptureDepth
from genfusion_ns.stereo.surfels import first_splats

EVAL_FALLBACK_EVERY = 8
GENERATED_FOLDER = "generated"
DISK_ADVICE = "Make room, and go on from the last checkpoint with --load-dir."


class GenFusionDataManager(FullImageDatamanager[InputDataset]):
    """See `GenFusionDataManagerConfig`."""

    config: GenFusionDataManagerConfig

    def __init__(
        self,
        config: GenFusionDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ) -> None:
        config.loop.check()
        self._windows: dict[int, tuple[Window, tuple[int, int]]] = {}
        config.cache_images = compat.usable_image_cache(config.cache_images, device)  # type: ignore[assignment]
        super().__init__(config, device, test_mode, world_size, local_rank, **kwargs)
        config.cache_images = compat.usable_image_cache(config.cache_images, device)  # type: ignore[assignment]
        self.loop = Loop(config.loop, lambda: self.loop.config.make_repairer(self.device, CONSOLE.print), config.seed)
        self.rounds = RoundsPanel(training=test_mode == "val")
        self.clock = Clock()
        self.set_run_length(config.reference_iterations)
        self.depth: CaptureDepth | None = None
        self._captured_cameras: list[Camera] | None = None
        if test_mode == "val":
            self._add_initial_points()

    # -- datasets ------------------------------------------------------------------------------------------------

    def create_train_dataset(self) -> InputDataset:
        """The training photos, checked; broken ones are left out while they are few."""
        if self.test_mode == "val":
            self.train_dataparser_outputs = train_photos.checked(self.train_dataparser_outputs)
        return super().create_train_dataset()

    def create_eval_dataset(self) -> InputDataset:
        """The held-out photos; Nerfstudio's commands need at least one, so training photos stand in for none."""
        outputs = self.dataparser.get_dataparser_outputs(split=self.test_split)
        if outputs.image_filenames and self.test_mode != "inference":
            outputs = train_photos.checked(outputs, minimum=1)
        self.holds_out = bool(outputs.image_filenames)
        if not self.holds_out:
            every = list(range(0, len(self.train_dataset), EVAL_FALLBACK_EVERY))
            CONSOLE.print(
                f"[yellow]No photo is held out;[/] {len(every)} of the training photos stand in, so evaluation shows "
                "fit, not quality. To hold some out, end the command with: genfusion-data --eval-interval 8",
                soft_wrap=True,
            )
            outputs = subset(self.train_dataparser_outputs, every)
        return self.dataset_type(dataparser_outputs=outputs, scale_factor=self.config.camera_res_scale_factor)

    def _load_images(
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> list[dict[str, torch.Tensor]]:
        """Nerfstudio's undistorted photos, then cropped (training only) and reduced to `max_image_side`."""
        device, self.device = self.device, "cpu"
        try:
            cache = super()._load_images(split, "gpu")  # that is: on self.device, here the CPU, unpinned
        finally:
            self.device = device
        dataset = self.train_dataset if split == "train" else self.eval_dataset
        for i, data in enumerate(cache):
            height, width = data["image"].shape[:2]
            window = None
            if split == "train":
                window = train_photos.seen_window(self.config.mask, self._image_id(i), width, height)
            if window is not None:
                self._windows[i] = window, (width, height)
            train_photos.fit_photo(data, dataset.cameras, i, window, self.config.max_image_side)
            for name in ("image", "mask"):
                if name in data:
                    data[name] = data[name].to(device) if cache_images_device == "gpu" else data[name].pin_memory()
        self.train_cameras = self.train_dataset.cameras.to(device)
        return cache

    def _image_id(self, i: int) -> int:
        """Place of training photo `i` in the name-sorted list of the whole scene."""
        return self.train_dataparser_outputs.metadata.get("image_ids", range(len(self.train_dataset)))[i]

    # -- initial points ------------------------------------------------------------------------------------------

    def train_views(self) -> list[TrainView]:
        """The training photos as the core sees them."""
        cameras = core_cameras(self._cameras_after_loading())
        files = self.train_dataset.image_filenames
        return [
            TrainView(camera, train_photos.rgb_uint8(data["image"]), str(files[i]), self._image_id(i))
            for i, (camera, data) in enumerate(zip(cameras, self.cached_train, strict=True))
        ]

    def _cameras_after_loading(self) -> Cameras:
        """The training cameras, which belong to the cached photos only once these are loaded."""
        assert self.cached_train
        return self.train_dataset.cameras

    def _add_initial_points(self) -> None:
        """Put the first splats' places into the metadata, where Nerfstudio's pipeline looks for them."""
        config, metadata = self.config, self.train_dataparser_outputs.metadata
        data = Path(self.get_datapath())
        folder = find_model(data.parent if data.suffix else data)
        model = read_model(folder) if folder is not None else None
        if config.initial_points == "depth":
            views = self.train_views()
            self.depth, tracks = find_depth(
                views, model, config.depth_estimator, config.depth_side, config.depth_folder, self.device
            )
            found = first_splats(
                views, self.depth.photos, self.depth.depths, tracks, config.max_seed_points, config.seed
            )
            xyz, rgb = found.xyz, (found.rgb * 255).round().to(torch.uint8)
            # the model is given the dataset's metadata, which is a copy
            self.train_dataset.metadata[NORMALS_KEY] = found.normals
        else:
            cloud = (metadata["points3D_xyz"], metadata["points3D_rgb"]) if "points3D_xyz" in metadata else None
            xyz, rgb = seed_points(
                self.train_views(), model, config.max_seed_points, config.initial_points, cloud, config.seed
            )
        metadata["points3D_xyz"], metadata["points3D_rgb"] = xyz, rgb

    # -- views of a step -----------------------------------------------------------------------------------------

    def next_train(self, step: int) -> tuple[Camera, dict[str, Any]]:  # type: ignore[override]
        """The captured view of a step: every epoch is a fresh permutation, a function of (seed, step) alone."""
        judging = set(self.loop.judging(len(self.cached_train), step))
        training = [i for i in range(len(self.cached_train)) if i not in judging]
        index = training[order_index(len(training), self.config.seed, step, "captured views")]
        data = dict(self.cached_train[index])
        data["image"] = data["image"].to(self.device, non_blocking=True)
        return self.captured_cameras()[index], data

    def next_eval_image(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """One held-out view, in a fixed order too."""
        index = order_index(len(self.cached_eval), self.config.seed, step, "held-out views")
        data = dict(self.cached_eval[index])
        data["image"] = data["image"].to(self.device)
        return self.eval_dataset.cameras[index : index + 1].to(self.device), data

    # -- the loop ------------------------------------------------------------------------------------------------

    @property
    def loop_state(self) -> LoopState:
        """What the loop remembers between steps."""
        return self.loop.state

    def set_run_length(self, max_num_iterations: int) -> None:
        """Scale the loop's step numbers to a run of so many steps."""
        self.run_length = max_num_iterations
        self.loop.config = self.config.loop.scaled_to(max_num_iterations, self.config.reference_iterations)
        self.rounds.update(self.loop_state, self.loop.config, 0, max_num_iterations)

    def next_generated(self, step: int) -> tuple[GeneratedFrame, float] | None:
        """The generated view of a step and lambda(step); None before the first round and once lambda is 0."""
        return self.loop.pick(step)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        trainer = training_callback_attributes.trainer
        pipeline = training_callback_attributes.pipeline
        assert trainer is not None and pipeline is not None
        before_step = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION
        after_step, after_all = TrainingCallbackLocation.AFTER_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN
        folder = trainer.base_dir / GENERATED_FOLDER
        if self.loop_state.pool or folder.is_dir():
            # resumed: what the folder holds may be older, or newer, than the checkpoint
            self.loop_state.pool.save(folder)
        return [
            TrainingCallback([before_step], self.make_up_for_round, args=[pipeline.model, folder]),
            TrainingCallback([after_step], self.run_round_if_due, args=[pipeline.model, folder]),
            TrainingCallback([after_step], self.end_loop_if_due, args=[pipeline.model, folder]),
            TrainingCallback([after_all], self.print_rounds),
        ]

    def run_round_if_due(self, model: GenFusionModel, folder: Path, step: int) -> None:
        """Run a round after step `step` (0-based) where one is asked for, or is scheduled for the step after: growth
        follows every hundredth step, as rounds do, and costs what splats show 5 dB until they have settled again."""
        k = 1 if step == 0 and self.loop.config.is_round_due(1, self.run_length) else step + 2
        if self.rounds.wants_round(self.loop.config, k, self.run_length):
            self.run_round(model, folder, step)

    def make_up_for_round(self, model: GenFusionModel, folder: Path, step: int) -> None:
        """Before the first step of a resumed run: the round that a signal cut off after the step before."""
        if self.loop_state.unfinished:
            model.step = step - 1
            self.run_round(model, folder, step - 1)
            model.step = step

    def run_round(self, model: GenFusionModel, folder: Path, step: int) -> None:
        """After step `step`: render novel views, have them repaired, admit them, keep them on disk too."""
        k = step + 2 if self.loop.config.is_round_due(step + 2, self.run_length) else step + 1
        self.loop_state.unfinished = True
        training, judging = self._captured_views(model)
        watch = MostChanged()
        try:
            report = self.loop.round(k, model.render, training, judging, model.trained_splats(), CONSOLE, watch)
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            CONSOLE.print(
                f"[yellow]genfusion: the round at step {k} is left out,[/] since the GPU's memory does not hold it "
                f"({str(error).splitlines()[0]}). Training goes on. What helps: a smaller "
                "--pipeline.datamanager.loop.max-side or loop.clip-length, or less loop.diffusion.memory than is free.",
                soft_wrap=True,
            )
            self.loop_state.unfinished = False
            return
        self.loop_state.unfinished = False
        with write_errors(folder.parent, DISK_ADVICE):
            self.loop_state.pool.save(folder)
            log_round(report, watch.sheet(), step, folder.parent)
        self.rounds.update(self.loop_state, self.loop.config, k, self.run_length)
        self.rounds.show_clip(watch.sheet())
        self.clock.add_round(report.seconds)
        left = self.clock.remaining(self.run_length - k, self.rounds_after(k))
        CONSOLE.print(
            f"[bold]genfusion:[/] {round_line(report, self.loop.repairer.name)}; about {duration(left)} to go.",
            soft_wrap=True,
        )

    def rounds_after(self, k: int) -> int:
        """How many scheduled rounds come after step k."""
        return len(round_steps_after(k, self.loop.config, self.run_length))

    def renders_after(self, k: int) -> int:
        """How many views the steps after step k render: a captured one each, and a generated one while it counts."""
        return sum(1 + (self.loop.config.generated_weight(step) > 0) for step in range(k, self.run_length))

    def end_loop_if_due(self, model: GenFusionModel, folder: Path, step: int) -> None:
        """When generated views have taught for the last time, the last round is judged too."""
        if step + 1 == self.loop.config.until and self.loop_state.reports:
            training, judging = self._captured_views(model)
            self.loop.settle(model.render, training, judging, model.trained_splats())
            with write_errors(folder.parent, DISK_ADVICE):
                self.loop_state.pool.save(folder)
            self.rounds.update(self.loop_state, self.loop.config, step + 1, self.run_length)

    def print_rounds(self, step: int) -> None:
        """At the end of a run: what each round did."""
        self.rounds.close()
        if self.loop_state.reports:
            CONSOLE.print(round_table(self.loop_state.reports))

    def captured_cameras(self) -> list[Camera]:
        """The training photos' cameras as they are trained on."""
        if self._captured_cameras is None:
            self._captured_cameras = core_cameras(self._cameras_after_loading(), self.device)
        return self._captured_cameras

    def _captured_views(self, model: GenFusionModel) -> tuple[CapturedViews, CapturedViews]:
        """The photos that train beside generated views, and those that judge these."""
        cameras = self.captured_cameras()
        judging = held_out(len(cameras), self.loop.config.hold_out_from)
        training, masked = [i for i in range(len(cameras)) if i not in judging], self.config.mask != "none"

        def views(ids: list[int]) -> CapturedViews:
            return CapturedViews(
                [cameras[i] for i in ids],
                lambda j: model.get_gt_img(self.cached_train[ids[j]]["image"])[..., :3],
                [train_photos.full_frame(cameras[i], *self._windows[i]) for i in ids] if masked else None,
                None if self.depth is None else (lambda j, depths=self.depth.depths: depths[ids[j]]),
            )

        return views(training), views(judging)

    def get_extra_state(self) -> dict[str, Any]:
        """The loop's state: tensors and plain scalars."""
        return self.loop_state.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.loop_state.load_state_dict(state)
        step = self.loop_state.reports[-1].step if self.loop_state.reports else 0
        self.rounds.update(self.loop_state, self.loop.config, step, self.run_length)
