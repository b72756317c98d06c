"""One dataparser for Nerfstudio and COLMAP folders, with the views that sparse and masked protocols ask for.

It reads all images through Nerfstudio's own parsers (so that every split shares one world frame), then chooses.
Checks of images and poses, and initial points, are the datamanager's: they apply to every dataparser.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from genfusion_ns.data.split import every_kth_split, load_split, spread_split
from genfusion_ns.data.validate import missing_scene_error, validate_cameras, validate_scene
from genfusion_ns.errors import UserError

COLMAP_FOLDERS = ("colmap/sparse/0", "sparse/0")
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
    eval_interval: int = 8
    """Every so many-th image, sorted by name, is held out for evaluation; unused where the scene has a split."""
    downscale_factor: int | None = None
    """Read images_{factor} instead of images; None = full size, which the datamanager's max-image-side then reduces."""
    orientation_method: Literal["pca", "up", "vertical", "none"] = "up"
    """How Nerfstudio turns the world upright; up follows the cameras."""
    center_method: Literal["poses", "focus", "none"] = "poses"
    """What Nerfstudio moves to the origin."""
    auto_scale_poses: bool = True
    """Scale the world so that all cameras lie within +-1; the model's lengths (near, scales) assume it."""
    images_path: Path = Path("images")
    """Image folder of COLMAP scenes, relative to the data folder."""


@dataclass
class Frames:
    """All images of a scene, sorted by file name, and the indices of each split."""

    outputs: DataparserOutputs
    train: list[int]
    val: list[int]
    test: list[int]


@dataclass
class GenFusionDataParser(DataParser):
    """See `GenFusionDataParserConfig`."""

    config: GenFusionDataParserConfig
    downscale_factor: int | None = None
    """Unused; Nerfstudio sets it on every dataparser in inference mode."""

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        frames = self._frames()
        return subset(frames.outputs, getattr(frames, "train" if split == "train" else split))

    def _frames(self) -> Frames:
        """Read and split once; train, val and test are three looks at one scene."""
        if not hasattr(self, "_cached"):
            self._cached = self._split(*self._read())
        return self._cached

    def _read(self) -> tuple[DataparserOutputs, dict[str, list[str]]]:
        """All frames, sorted by name, and the names that transforms.json assigns to splits (often none)."""
        data = self.config.data
        transforms = data if data.suffix == ".json" else data / "transforms.json"
        common = {
            "data": data,
            "orientation_method": self.config.orientation_method,
            "center_method": self.config.center_method,
            "auto_scale_poses": self.config.auto_scale_poses,
            "downscale_factor": self.config.downscale_factor or 1,
            # An interval of 1 makes every image a test image: all of them, without the warning of eval_mode="all".
            "eval_mode": "interval",
            "eval_interval": 1,
        }
        if transforms.is_file():
            meta = read_transforms(transforms)
            check_raw_cameras(transforms, meta)
            # Without a ply_file_path Nerfstudio asks questions on the terminal; the datamanager has better points.
            parser = NerfstudioDataParserConfig(**common, load_3D_points="ply_file_path" in meta).setup()
            names = {split: meta[key] for split, key in SPLIT_KEYS.items() if key in meta}
            try:
                outputs = concatenate([parser.get_dataparser_outputs(split=split) for split in names or ("test",)])
            except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise UserError(
                    f"{transforms} could not be read by Nerfstudio: {error}. Write it again with genfusion-prepare or "
                    "ns-process-data."
                ) from error
            return sort_by_name(outputs), names
        for folder in COLMAP_FOLDERS:
            if (data / folder).is_dir():
                parser = ColmapDataParserConfig(
                    **common, colmap_path=Path(folder), images_path=self.config.images_path
                ).setup()
                return sort_by_name(parser.get_dataparser_outputs(split="test")), {}
        raise missing_scene_error(data, [transforms, *(data / folder for folder in COLMAP_FOLDERS)])

    def _split(self, outputs: DataparserOutputs, names: dict[str, list[str]]) -> Frames:
        files = [path.name for path in outputs.image_filenames]
        c2w = outputs.cameras.camera_to_worlds.numpy()
        folder = self.config.data.parent if self.config.data.suffix == ".json" else self.config.data
        n = self.config.sparse_views
        if n > 0 and (folder / f"train_test_split_{n}.json").is_file():
            chosen = load_split(folder, n, files)
            return Frames(outputs, chosen.train_ids, chosen.test_ids, chosen.test_ids)
        if names:
            ids = {split: indices_of(names[split], files) for split in names}
            held_out = ids.get("test") or ids.get("val") or []
            train = ids.get("train") or [i for i in range(len(files)) if i not in set(held_out)]
            val = ids.get("val") or held_out
        else:
            plain = every_kth_split(len(files), self.config.eval_interval)
            train, held_out, val = plain.train_ids, plain.test_ids, plain.test_ids
        if n > 0:
            train = spread_split(c2w, n, train)
        return Frames(outputs, train, val, held_out)


def read_transforms(path: Path) -> dict[str, Any]:
    """transforms.json as a dictionary; a `UserError` where it is no JSON or has no frames."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is no valid JSON ({error}). Write it again with genfusion-prepare or ns-process-data."
        ) from None
    if not isinstance(meta, dict) or not meta.get("frames"):
        raise UserError(f"{path} lists no frames. Write it again with genfusion-prepare or ns-process-data.")
    return meta


def check_raw_cameras(path: Path, meta: dict[str, Any]) -> None:
    """Check poses and focal lengths as transforms.json has them.

    Raises:
        UserError: a frame without a pose, or every broken pose and focal length.
    """
    names, poses, K, sizes = [], [], [], []
    for number, frame in enumerate(meta["frames"]):
        try:
            names.append(Path(frame["file_path"]))
            poses.append(np.array(frame["transform_matrix"], dtype=np.float64).reshape(-1, 4)[:3])
            focal = [float(frame.get(key, meta.get(key, math.nan))) for key in ("fl_x", "fl_y")]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: frame {number} could not be read ({type(error).__name__}: {error}). Expected file_path, "
                "transform_matrix (4 x 4 numbers), and fl_x, fl_y in pixels there or at the top. Write the file again "
                "with genfusion-prepare or ns-process-data."
            ) from None
        K.append(np.diag([*focal, 1.0]))
        sizes.append([frame.get(key, meta.get(key)) for key in ("w", "h")])
    try:
        validate_cameras(names, np.stack(poses), np.stack(K), scene=str(path))
    except UserError:
        if all(None not in size for size in sizes):
            # The photos' faults belong into the same message; the datamanager, which checks them, is never reached.
            files = [path.parent / name for name in names]
            validate_scene(files, np.stack(poses), np.stack(K), *np.array(sizes).T, scene=str(path))
        raise


def indices_of(paths: list[str], files: list[str]) -> list[int]:
    """Indices of the files named in a split list."""
    wanted = {Path(path).name for path in paths}
    return [i for i, name in enumerate(files) if name in wanted]


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


def sort_by_name(outputs: DataparserOutputs) -> DataparserOutputs:
    """Frames in the order of their file names, which all split files refer to; duplicates are dropped."""
    names = [path.name for path in outputs.image_filenames]
    _, first = np.unique(names, return_index=True)
    return subset(outputs, [int(i) for i in first])


def concatenate(parts: list[DataparserOutputs]) -> DataparserOutputs:
    """Splits of one scene as one list (same world frame, since Nerfstudio orients before it splits)."""
    fields = ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height", "distortion_params", "camera_type")
    joined = {}
    for name in fields:
        values = [getattr(part.cameras, name) for part in parts]
        joined[name] = None if values[0] is None else torch.cat(values)
    masks = [path for part in parts for path in (part.mask_filenames or [])]
    return replace(
        parts[0],
        image_filenames=[path for part in parts for path in part.image_filenames],
        mask_filenames=masks or None,
        cameras=Cameras(**joined),
    )


genfusion_data = DataParserSpecification(
    config=GenFusionDataParserConfig(),
    description="Nerfstudio or COLMAP folder, with sparse-view selection.",
)
