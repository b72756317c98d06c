"""Scenes through Nerfstudio's own parsers, which compute in float32: their poses and points are moved near the origin
before, in float64, where georeferenced coordinates would lose their last metres."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers import base_dataparser
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser, ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.utils import colmap_parsing_utils
from nerfstudio.utils.rich_utils import CONSOLE

from genfusion_ns.data.transforms import DISTORTION, centres_of, check_models, far_offset, stand_alone
from genfusion_ns.data.validate import validate_cameras
from genfusion_ns.data.views import FloatArray
from genfusion_ns.errors import UserError

COLMAP_TRANSFORM = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]
"""What Nerfstudio takes for applied_transform where a scene has colmap/sparse/0 and does not say."""
_UNREADABLE = (
    *(AssertionError, LookupError, TypeError, ValueError, ArithmeticError),
    *(MemoryError, OSError, RuntimeError, struct.error),
)


class FarOutputs(DataparserOutputs):
    """A scene whose own origin lies far away, so that `dataparser_transform` is float64."""

    def transform_poses_to_original_space(
        self, poses: torch.Tensor, camera_convention: Literal["opengl", "opencv"] = "opencv"
    ) -> torch.Tensor:
        """Poses [M, 3, 4] in the scene's own world, float64."""
        transform, scale = self.dataparser_transform, self.dataparser_scale
        return base_dataparser.transform_poses_to_original_space(poses.double(), transform, scale, camera_convention)


def read_frames(path: Path, meta: dict[str, Any], common: dict[str, Any]) -> DataparserOutputs:
    """All frames of the transforms.json at `path`, whose content is `meta` (`data.transforms.read_transforms`), through
    Nerfstudio's parser with the settings `common`. Raises UserError: Nerfstudio can't read it."""
    folder = path.parent
    meta = dict(meta)
    if "applied_transform" not in meta and common["data"].is_dir() and (folder / "colmap/sparse/0").exists():
        meta["applied_transform"] = COLMAP_TRANSFORM
    offset = far_offset(centres_of(meta["frames"]))
    cloud = meta.pop("ply_file_path", None) if offset is not None else None
    try:
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "transforms.json"
            file.write_text(json.dumps(stand_alone(meta, folder, offset)), encoding="utf-8")
            # Without a ply_file_path Nerfstudio asks questions on the terminal; the datamanager has better points.
            config = NerfstudioDataParserConfig(**{**common, "data": file}, load_3D_points="ply_file_path" in meta)
            outputs = config.setup().get_dataparser_outputs(split="test")
    except _UNREADABLE as error:
        raise UserError(
            f"{path} could not be read by Nerfstudio: {_reason(error)}. Write it again with genfusion-prepare or "
            "ns-process-data."
        ) from error
    bend_straight_fisheyes(outputs)
    if offset is None:
        return outputs
    applied = np.eye(4)
    applied[:3] = np.asarray(meta.get("applied_transform", applied[:3]), dtype=np.float64)[:3]
    moved = moved_back(outputs, offset, applied[:3, :3])
    if cloud is not None:
        turn = np.linalg.inv(applied)  # the cloud lies in the file's world, the transform starts in the original one
        moved.metadata.update(_cloud(folder / cloud, moved.dataparser_transform.numpy() @ turn, moved.dataparser_scale))
    return moved


def read_colmap(data: Path, place: str, images: Path, common: dict[str, Any]) -> DataparserOutputs:
    """All photos of the COLMAP model at `place` in a scene's folder `data`, where `images` is the photos' folder,
    through Nerfstudio's parser with the settings `common`. Raises UserError: the model is damaged, or its cameras
    can't be used."""
    folder = data / place
    config = ColmapDataParserConfig(
        **{**common, "data": data},
        colmap_path=Path(place),
        images_path=images,
        load_3D_points=any((folder / name).is_file() for name in ("points3D.bin", "points3D.txt")),
    )
    parser = _ModelParser(config)
    try:
        outputs = parser.get_dataparser_outputs(split="test")
    except UserError:
        raise
    except _UNREADABLE as error:
        raise UserError(
            f"{folder} holds no COLMAP model that can be read: {_reason(error)}. Expected cameras, images and "
            "points3D, all .bin or all .txt, complete, of pinhole or OPENCV_FISHEYE cameras. Export the model again, "
            "or pose the photos with genfusion-prepare."
        ) from error
    bend_straight_fisheyes(outputs)
    return outputs if parser.offset is None else moved_back(outputs, parser.offset, parser.applied)


class _ModelParser(ColmapDataParser):
    """Nerfstudio's parser, with cameras checked and moved near the origin in float64."""

    offset: FloatArray | None = None
    """[3] taken from all positions (in Nerfstudio's axes), None where they are near the origin."""
    applied: FloatArray = np.eye(3)
    """[3, 3] Nerfstudio's change of axes."""

    def _get_all_images_and_cameras(self, recon_dir: Path) -> dict[str, Any]:
        meta = super()._get_all_images_and_cameras(recon_dir)
        frames = meta["frames"]
        check_models(str(recon_dir), [frame["camera_model"] for frame in frames])
        validate_cameras(
            [Path(frame["file_path"]) for frame in frames],
            np.stack([frame["transform_matrix"][:3] for frame in frames]),
            np.stack([np.diag([frame["fl_x"], frame["fl_y"], 1.0]) for frame in frames]),
            sizes=np.array([[frame["w"], frame["h"]] for frame in frames], dtype=np.float64),
            distortion=[[frame.get(key, 0.0) for key in DISTORTION] for frame in frames],
            scene=str(recon_dir),
        )
        self.offset = far_offset(centres_of(frames))
        if "applied_transform" in meta:
            self.applied = np.array(meta["applied_transform"])[:, :3]
        if self.offset is not None:
            for frame in frames:
                frame["transform_matrix"][:3, 3] -= self.offset
        return meta

    def _load_3D_points(self, colmap_path: Path, transform_matrix: torch.Tensor, scale_factor: float) -> dict[str, Any]:
        loaded = super()._load_3D_points(colmap_path, transform_matrix, scale_factor)
        if self.offset is None:
            return loaded
        name = "points3D.bin" if (colmap_path / "points3D.bin").exists() else "points3D.txt"
        read = getattr(colmap_parsing_utils, f"read_points3D_{'binary' if name.endswith('bin') else 'text'}")
        xyz = np.array([point.xyz for point in read(colmap_path / name).values()], dtype=np.float64)
        near = xyz @ self.applied.T - self.offset
        turn = transform_matrix.double().numpy()
        loaded["points3D_xyz"] = _float32((near @ (turn[:, :3] @ self.applied.T).T + turn[:, 3]) * scale_factor)
        return loaded


def moved_back(outputs: DataparserOutputs, offset: FloatArray, applied: FloatArray) -> FarOutputs:
    """The same views, with a transform that starts in the scene's own world.

    Args:
        outputs: read without `offset`.
        offset: [3] what was taken from positions after `applied`.
        applied: [3, 3] change of axes between the scene's own world and the one that was read.
    """
    place = ", ".join(f"{value:,.0f}" for value in np.linalg.inv(applied) @ offset)
    CONSOLE.print(
        f"[bold]genfusion:[/] the cameras are around ({place}), far from the origin; the scene is moved there in "
        "float64, and dataparser_transforms.json leads back.",
        soft_wrap=True,
    )
    transform = outputs.dataparser_transform.double().clone()
    transform[:, 3] -= transform[:, :3] @ torch.from_numpy(np.linalg.inv(applied) @ offset)
    # vars: DataparserOutputs.as_dict
    return FarOutputs(**{**vars(outputs), "dataparser_transform": transform})


def bend_straight_fisheyes(outputs: DataparserOutputs) -> None:
    """Give fisheyes whose coefficients are all 0 (equidistant ones) a first one of 1e-9, in place: Nerfstudio takes
    zeros for "no distortion", and would train on them as on pinholes."""
    cameras = outputs.cameras
    if cameras.distortion_params is None:
        return
    straight = (cameras.camera_type == CameraType.FISHEYE.value).flatten() & (cameras.distortion_params == 0).all(-1)
    first = torch.eye(cameras.distortion_params.shape[-1])[0]
    cameras.distortion_params = cameras.distortion_params + 1e-9 * straight[:, None] * first


def _cloud(file: Path, transform: FloatArray, scale: float) -> dict[str, torch.Tensor]:
    """The points of a PLY file, moved in float64; nothing where it holds none, as Nerfstudio does."""
    import open3d

    cloud = open3d.io.read_point_cloud(str(file))  # pyright: ignore[reportArgumentType]
    xyz = np.asarray(cloud.points, dtype=np.float64)
    if not len(xyz):
        return {}
    rgb = (np.asarray(cloud.colors) * 255).astype(np.uint8)
    return {
        "points3D_xyz": _float32((xyz @ transform[:, :3].T + transform[:, 3]) * scale),
        "points3D_rgb": torch.from_numpy(rgb),
    }


def _float32(values: FloatArray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
