"""One dataparser for Nerfstudio and COLMAP folders, with the views that sparse and masked protocols ask for.

It reads all images through Nerfstudio's own parsers (so that every split shares one world frame), then chooses.
Photos are told apart by their paths; split files count them in the order of `in_order`.
Checks of images and poses, and initial points, are the datamanager's: they apply to every dataparser.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from genfusion_ns.bounds import COUNT, NATURAL, Bounds, check_bounds
from genfusion_ns.data.layouts import COLMAP_FOLDERS, available_factors, recognise
from genfusion_ns.data.photos import photo_size
from genfusion_ns.data.split import every_kth_split, every_kth_trains, load_split, spread_split
from genfusion_ns.data.transforms import read_transforms
from genfusion_ns.data.validate import missing_scene_error
from genfusion_ns.data.views import find_by_name
from genfusion_ns.errors import UserError
from genfusion_ns.plugin.scene_readers import read_colmap, read_frames

SPLIT_KEYS = {"train": "train_filenames", "val": "val_filenames", "test": "test_filenames"}


@dataclass
class GenFusionDataParserConfig(DataParserConfig):
    """Scenes in Nerfstudio's (transforms.json) or COLMAP's (sparse/0) format."""

    _target: type = field(default_factory=lambda: GenFusionDataParser)
    """The dataparser class."""
    data: Path = Path()
    """Folder of the scene, or its transforms.json."""
    sparse_views: int = 0
    """Train on this many views only (0 = all): those of the scene's train_test_split_{n}.json if there is one, else n
    views spread evenly over position and direction."""
    splits: Path | None = None
    """Folder of train_test_split_{n}.json (or of one folder per scene that holds them), where they are not in the
    scene's own: ReconFusion's lists come without photos."""
    train_every: int = 0
    """Train on every so many-th image, sorted by name, and hold all the others out (0 = off): GenFusion's masked
    protocol takes 2 and 4. Comes before eval-interval; sparse-views comes before both."""
    eval_interval: int = 8
    """Every so many-th image, sorted by name, is held out for evaluation; unused where the scene has a split."""
    downscale_factor: int | None = None
    """Read images_{factor} instead of images; None = images, or the largest of images_2, images_4, … where there is no
    images. The datamanager's max-image-side reduces further."""
    orientation_method: Literal["pca", "up", "vertical", "none"] = "up"
    """How Nerfstudio turns the world upright; up follows the cameras."""
    center_method: Literal["poses", "focus", "none"] = "poses"
    """What Nerfstudio moves to the origin."""
    auto_scale_poses: bool = True
    """Scale the world so that all cameras lie within +-1; the model's lengths (near, scales) assume it."""
    images_path: Path = Path("images")
    """Image folder of COLMAP scenes, relative to the data folder."""

    BOUNDS: ClassVar[Bounds] = {
        "sparse_views": NATURAL,
        "train_every": NATURAL,
        "eval_interval": COUNT,
        "downscale_factor": COUNT,
    }


@dataclass
class GenFusionDataParser(DataParser):
    """See `GenFusionDataParserConfig`."""

    config: GenFusionDataParserConfig
    downscale_factor: int | None = None
    """Unused; Nerfstudio sets it on every dataparser in inference mode."""

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        outputs, ids = self._frames
        return subset(outputs, ids[split])

    @cached_property
    def _frames(self) -> tuple[DataparserOutputs, dict[str, list[int]]]:
        """All images in order (`in_order`), and the indices of each split: read once."""
        check_bounds(self.config, "--")
        outputs, ids = self._read()
        return outputs, self._split(outputs, ids)

    def _read(self) -> tuple[DataparserOutputs, dict[str, list[int]]]:
        """All frames in order (`in_order`), and the indices that transforms.json assigns to splits (often none)."""
        layout = recognise(self.config.data) if self.config.data.is_dir() else None
        if layout is not None:
            self.config.data = layout.scene  # for all who ask where the scene is
        data = self.config.data
        transforms = data if data.suffix == ".json" else data / "transforms.json"
        factor = self._factor(data.parent if data.suffix == ".json" else data)
        common = {
            "data": data,
            "orientation_method": self.config.orientation_method,
            "center_method": self.config.center_method,
            "auto_scale_poses": self.config.auto_scale_poses,
            # Reduced photos come in below: Nerfstudio would ask on the terminal for missing ones, and guess their size.
            "downscale_factor": 1,
            # An interval of 1 makes every image a test image: all of them, without the warning of eval_mode="all".
            "eval_mode": "interval",
            "eval_interval": 1,
        }
        if transforms.is_file():
            meta = read_transforms(transforms)
            outputs = in_order(read_frames(transforms, meta, common))
            lists = {split: meta[key] for split, key in SPLIT_KEYS.items() if key in meta}
            ids = {split: indices_of(lists[split], outputs.image_filenames, transforms, split) for split in lists}
            return reduced(outputs, factor), ids
        for folder in COLMAP_FOLDERS:
            if (data / folder).is_dir():
                return reduced(in_order(read_colmap(data, folder, self.config.images_path, common)), factor), {}
        raise missing_scene_error(data, [transforms, *(data / folder for folder in COLMAP_FOLDERS)])

    def _factor(self, folder: Path) -> int:
        """Which of images, images_2, … is read. Raises UserError: the folder that was asked for is not there
        (Nerfstudio would ask a question on the terminal)."""
        images, wanted = self.config.images_path, self.config.downscale_factor or 1
        there = available_factors((folder / images).parent, images.name)
        if wanted > 1 and wanted not in there:
            have = ", ".join(f"{images.name}_{factor}" for factor in there) or "none"
            raise UserError(
                f"downscale-factor is {wanted}, but {folder} has no {images.name}_{wanted} (reduced photos there: "
                f"{have}). Leave it out; --pipeline.datamanager.max-image-side reduces photos as they are read."
            )
        if self.config.downscale_factor is None and there and not (folder / images).is_dir():
            return there[0]
        return wanted

    def _split_folder(self, n: int) -> Path | None:
        """Where train_test_split_{n}.json lies."""
        scene = self.config.data.parent if self.config.data.suffix == ".json" else self.config.data
        places = [scene]
        if self.config.splits is not None:
            name = scene.parent.name if scene.name == "nerfstudio" else scene.name
            places = [self.config.splits / name, self.config.splits]
        found = next((place for place in places if (place / f"train_test_split_{n}.json").is_file()), None)
        if found is None and self.config.splits is not None:
            raise UserError(
                f"Found no train_test_split_{n}.json in {' or '.join(map(str, places))}. Leave splits out to have {n} "
                "evenly spread views chosen."
            )
        return found

    def _split(self, outputs: DataparserOutputs, ids: dict[str, list[int]]) -> dict[str, list[int]]:
        """Indices of train, val and test; `ids` are those that the scene assigns itself."""
        files, n = [path.name for path in outputs.image_filenames], self.config.sparse_views
        chosen = None
        if n > 0 and (folder := self._split_folder(n)) is not None:
            chosen = load_split(folder, n, files)
        elif n == 0 and self.config.train_every > 0:
            chosen = every_kth_trains(len(files), self.config.train_every)
        if chosen is not None:
            return {"train": chosen.train_ids, "val": chosen.test_ids, "test": chosen.test_ids}
        if ids:
            held_out = ids.get("test") or ids.get("val") or []
            train = ids.get("train") or [i for i in range(len(files)) if i not in set(held_out)]
            val = ids.get("val") or held_out
        else:
            plain = every_kth_split(len(files), self.config.eval_interval)
            train, held_out, val = plain.train_ids, plain.test_ids, plain.test_ids
        if n > 0:
            train = spread_split(outputs.cameras.camera_to_worlds.numpy(), n, train)
        return {"train": train, "val": val, "test": held_out}


def reduced(outputs: DataparserOutputs, factor: int) -> DataparserOutputs:
    """The same views with their photos from images_{factor} and cameras that fit these exactly, however who reduced
    them rounded odd sizes. What cannot be read, or has another aspect, is left to the datamanager's checks."""
    if factor == 1:
        return outputs
    paths = [reduced_path(path, factor) for path in outputs.image_filenames]
    masks = [reduced_path(path, factor) for path in outputs.mask_filenames or []]
    cameras = outputs.cameras
    for i, path in enumerate(paths):
        full = int(cameras.width[i]), int(cameras.height[i])
        size = photo_size(path)
        if size is None or any(abs(a - b / factor) > 2 for a, b in zip(size, full, strict=True)):
            size = full[0] // factor, full[1] // factor
        x_scale, y_scale = size[0] / full[0], size[1] / full[1]
        cameras.fx[i] *= x_scale
        cameras.cx[i] *= x_scale
        cameras.fy[i] *= y_scale
        cameras.cy[i] *= y_scale
        cameras.width[i], cameras.height[i] = size
    return replace(outputs, image_filenames=paths, mask_filenames=masks or None, cameras=cameras)


def reduced_path(path: Path, factor: int) -> Path:
    """images_4/a/1.jpg for images/a/1.jpg, where there is an images_4; else the path itself."""
    for folder in list(path.parents)[:3]:
        beside = folder.with_name(f"{folder.name}_{factor}")
        if folder.name and beside.is_dir():
            return beside / path.relative_to(folder)
    return path


def indices_of(listed: list[str], files: list[Path], transforms: Path, split: str) -> list[int]:
    """Indices, ascending, of the files that transforms.json lists for a split. Raises UserError: it names a file that
    there is none of."""
    listed = list(dict.fromkeys(listed))
    paths = [str(transforms.parent.absolute() / name) for name in listed]
    found = dict(zip(listed, find_by_name([str(path) for path in files], paths), strict=True))
    lost = [name for name, index in found.items() if index is None]
    if lost:
        raise UserError(
            f"{transforms}: {split}_filenames names {', '.join(lost[:5])}, which no frame has as its file_path. Mend "
            "the list, or take it out to have every eighth photo held out."
        )
    return sorted({index for index in found.values() if index is not None})


def subset(outputs: DataparserOutputs, ids: list[int]) -> DataparserOutputs:
    """The chosen frames; `metadata["image_ids"]` keeps their indices in the name-sorted list."""
    index = torch.tensor(ids, dtype=torch.long)
    metadata = {**outputs.metadata, "image_ids": list(ids)}
    if metadata.get("depth_filenames"):
        metadata["depth_filenames"] = [metadata["depth_filenames"][i] for i in ids]
    return replace(
        outputs,
        image_filenames=[outputs.image_filenames[i] for i in ids],
        mask_filenames=[outputs.mask_filenames[i] for i in ids] if outputs.mask_filenames else None,
        cameras=outputs.cameras[index],
        metadata=metadata,
    )


def in_order(outputs: DataparserOutputs) -> DataparserOutputs:
    """Frames in the order of their file names, which all split files refer to; where photos of several folders share
    names, in the order of their paths. A photo that is listed twice stays once."""
    paths = [path.as_posix() for path in outputs.image_filenames]
    first = sorted({path: i for i, path in reversed(list(enumerate(paths)))}.values())
    names = [outputs.image_filenames[i].name for i in first]
    unique = len(set(names)) == len(names)
    return subset(outputs, sorted(first, key=lambda i: outputs.image_filenames[i].name if unique else paths[i]))


genfusion_data = DataParserSpecification(
    config=GenFusionDataParserConfig(), description="Nerfstudio or COLMAP folder, with sparse-view selection."
)
