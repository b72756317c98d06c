"""The views that a training step sees: captured ones in an order fixed by (seed, step), and the loop's generated ones.

It checks what any dataparser hands over, crops and resizes the photos, finds initial points, owns the loop's state and
asks for a round every K steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.utils.rich_utils import CONSOLE

from genfusion_ns.bounds import ANY, COUNT, NATURAL, POSITIVE, Bound, Bounds
from genfusion_ns.cameras import Camera
from genfusion_ns.data.colmap import find_model, read_model
from genfusion_ns.data.mask import Window
from genfusion_ns.data.points import PointsMode
from genfusion_ns.data.views import TrainView
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.round import CapturedViews, Loop
from genfusion_ns.loop.state import LoopState
from genfusion_ns.loop.supervision.gate import held_out
from genfusion_ns.loop.view_buffer import GeneratedFrame
from genfusion_ns.plugin import train_photos
from genfusion_ns.plugin.bridge import core_cameras
from genfusion_ns.plugin.dataparser import GenFusionDataParserConfig, subset
from genfusion_ns.plugin.first_splats import find_depth, seed_points
from genfusion_ns.plugin.model import NORMALS_KEY, GenFusionModel
from genfusion_ns.plugin.panel import RoundsPanel
from genfusion_ns.plugin.training_rounds import TrainingRounds
from genfusion_ns.seeding import order_index
from genfusion_ns.stereo.capture_depth import CaptureDepth
from genfusion_ns.stereo.surfels import first_splats

EVAL_FALLBACK_EVERY = 8


@dataclass
class GenFusionDataManagerConfig(FullImageDatamanagerConfig):
    """Photos, what of them is seen, where the first splats come from, and the loop."""

    _target: type = field(default_factory=lambda: GenFusionDataManager)
    """The datamanager class."""
    dataparser: AnnotatedDataParserUnion = field(default_factory=GenFusionDataParserConfig)
    """Who reads the scene; any of Nerfstudio's works, ours adds sparse views."""
    cache_images_type: Literal["uint8", "float32"] = "uint8"
    """How photos are kept: uint8 takes a quarter of the memory, and each step converts the photo that it shows."""
    max_image_side: int | None = 1600
    """Longest side of whole photos in training and evaluation, in pixels; a mask's windows are reduced by the same
    factor. Time grows with its square; 1,600 is also Nerfstudio's limit."""
    mask: Literal["none", "fixed", "moving"] = "none"
    """Train on a quarter of each photo: fixed = the top-left quadrant, as the paper's diffusion data; moving = the
    wandering window of the paper's evaluation. Evaluation always sees full photos."""
    initial_points: PointsMode = "depth"
    """Where the first splats lie: depth = on the surfaces that the training photos' depth shows; tracks = what the
    training photos alone can triangulate, completed by samples in their frusta; official = the official code's rule,
    which leaks geometry from the held-out photos; all = the scene's whole point cloud; random = samples in the frusta
    only."""
    depth_estimator: str = "stereo"
    """Who finds the photos' depth: stereo = the bundled network; transformers:SOURCE and depth-anything-3:SOURCE with a
    hub id or a folder, see docs/depth.md."""
    depth_side: int = 320
    """Longest side of the photos that depth is found for, in pixels."""
    depth_folder: Path | None = None
    """Where the photos' depth is kept and looked for; None = the run's folder."""
    max_seed_points: int = 100_000
    """How many splats to begin with; fewer measured points are completed by samples, more are thinned at random."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """When novel views are generated, by whom, and how much they count."""
    reference_iterations: int = 7000
    """Length of the run that the loop's step numbers refer to; they are scaled with --max-num-iterations."""
    seed: int = 42
    """The order of views and all samples follow from (seed, step)."""

    BOUNDS: ClassVar[Bounds] = {
        "max_image_side": Bound(16),
        "depth_side": Bound(32),
        **dict.fromkeys(("max_seed_points", "reference_iterations", "max_thread_workers", "fps_reset_every"), COUNT),
        **dict.fromkeys(("seed", "train_cameras_sampling_seed"), ANY),
        **dict.fromkeys(("eval_num_images_to_sample_from", "eval_num_times_to_repeat_images"), Bound(-1)),
        "eval_image_indices": NATURAL,
        "camera_res_scale_factor": POSITIVE,
    }


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
        super().__init__(config, device, test_mode, world_size, local_rank, **kwargs)
        self.loop = Loop(config.loop, lambda: self.loop.config.make_repairer(self.device, CONSOLE.print), config.seed)
        self.rounds = TrainingRounds(self.loop, RoundsPanel(training=test_mode == "val"), self._captured_views)
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
                if name in data:  # without an accelerator torch can't pin memory
                    pinned = cache_images_device == "cpu" and torch.device(device).type != "cpu"
                    data[name] = data[name].pin_memory() if pinned else data[name].to(device)
        self.train_cameras = self.train_dataset.cameras.to(device)
        return cache

    def _image_id(self, i: int) -> int:
        """Place of training photo `i` in the name-sorted list of the whole scene."""
        return self.train_dataparser_outputs.metadata.get("image_ids", range(len(self.train_dataset)))[i]

    # -- initial points ------------------------------------------------------------------------------------------

    def train_views(self) -> list[TrainView]:
        """The training photos as the core sees them."""
        files = self.train_dataset.image_filenames
        return [
            TrainView(camera, train_photos.rgb_uint8(self.cached_train[i]["image"]), str(files[i]), self._image_id(i))
            for i, camera in enumerate(core_cameras(self._cameras_after_loading()))
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
        config = self.config.loop.scaled_to(max_num_iterations, self.config.reference_iterations)
        self.rounds.set_run(config, max_num_iterations)

    def next_generated(self, step: int) -> tuple[GeneratedFrame, float] | None:
        """The generated view of a step and lambda(step); None before the first round and once lambda is 0."""
        return self.loop.pick(step)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        return self.rounds.callbacks(training_callback_attributes)

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
        self.rounds.resume()
