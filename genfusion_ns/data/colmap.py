"""COLMAP models, reduced to what initial points need: who saw which point where.

Observations are kept as normalised image coordinates (x/z, y/z, lens distortion removed by the model's own camera),
so it does not matter whether training later undistorts, shrinks or crops the photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genfusion_ns.data.lazy_pycolmap import pycolmap
from genfusion_ns.data.views import FloatArray, IntArray
from genfusion_ns.errors import UserError

LEAST_BYTES = {"cameras.bin": 48, "images.bin": 73, "points3D.bin": 51}
"""Bytes of the smallest entry of each file, after the 8 of their number."""
MODEL_FOLDERS = ("colmap/sparse/0", "sparse/0", "colmap/sparse", "sparse")
"""Where a scene's model is looked for, in this order."""


@dataclass(frozen=True)
class Tracks:
    """Which image saw which point where."""

    point: IntArray
    """[O] index of the observed point."""
    image: IntArray
    """[O] index of the observing image."""
    ray: FloatArray
    """[O, 2] normalised image coordinates x/z, y/z without lens distortion."""

    def where(self, chosen: NDArray[np.bool_]) -> Tracks:
        """The chosen [O] observations."""
        return Tracks(self.point[chosen], self.image[chosen], self.ray[chosen])

    def views_per_point(self) -> IntArray:
        """[P] how many different images observe each point, P = the largest index + 1."""
        pairs = np.unique(np.stack([self.point, self.image], axis=1), axis=0)
        return np.bincount(pairs[:, 0])


@dataclass(frozen=True)
class ColmapModel:
    """A sparse reconstruction in its own world."""

    names: list[str]
    """Image names, sorted."""
    c2w: FloatArray
    """[I, 4, 4] camera-to-world, OpenCV axes."""
    xyz: FloatArray
    """[P, 3] points."""
    rgb: NDArray[np.uint8]
    """[P, 3] colours."""
    tracks: Tracks
    """All observations; `image` counts `names`, `point` counts `xyz`."""


def find_model(scene: Path) -> Path | None:
    """The folder of the COLMAP model of a scene folder (or of its transforms.json), None where there is none."""
    scene = Path(scene)
    folder = scene.parent if scene.suffix == ".json" else scene
    for place in MODEL_FOLDERS:
        if any((folder / place / f"points3D{suffix}").is_file() for suffix in (".bin", ".txt")):
            return folder / place
    return None


def read_model(folder: Path) -> ColmapModel:
    """Read a COLMAP model, binary or text. Raises UserError: the files are incomplete or damaged."""
    try:
        _check_counts(folder)
        reconstruction = pycolmap.Reconstruction(str(folder))
        _check_size(folder / "cameras.bin", [24 + 8 * len(camera.params) for camera in reconstruction.cameras.values()])
        points3D = reconstruction.points3D.values()
        _check_size(folder / "points3D.bin", [51 + 8 * len(point.track.elements) for point in points3D])
    except (RuntimeError, ValueError, LookupError, MemoryError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(
            f"{folder} holds no COLMAP model that pycolmap {pycolmap.__version__} can read ({reason}). Expected "
            "cameras, images and points3D, all .bin or all .txt. Export the model again, or move the folder away: "
            "without it, features are matched between the training photos instead."
        ) from error
    images = sorted((image for image in reconstruction.images.values() if image.has_pose), key=lambda i: i.name)
    points = reconstruction.points3D
    place = {identity: index for index, identity in enumerate(points)}
    observed = [_observations(image, reconstruction.cameras[image.camera_id], place) for image in images]
    counts = [len(point) for point, _ in observed]
    return ColmapModel(
        names=[image.name for image in images],
        c2w=np.stack([_c2w(image) for image in images]) if images else np.zeros((0, 4, 4)),
        xyz=np.array([point.xyz for point in points.values()], dtype=np.float64).reshape(-1, 3),
        rgb=np.array([point.color for point in points.values()], dtype=np.uint8).reshape(-1, 3),
        tracks=Tracks(
            point=np.concatenate([point for point, _ in observed] or [np.zeros(0, np.int64)]),
            image=np.repeat(np.arange(len(images)), counts),
            ray=np.concatenate([ray for _, ray in observed] or [np.zeros((0, 2))]),
        ),
    )


def similarity_between(source: FloatArray, target: FloatArray) -> tuple[float, FloatArray, FloatArray, float]:
    """Scale s, rotation R [3, 3] and translation t [3] with target ~ s R source + t, from poses of the same cameras.

    The rotation is the chordal mean of the cameras' own rotations, so that two cameras are enough; scale and
    translation then fit the camera centres by least squares.

    Args:
        source: [V, 4, 4] camera-to-world in one world.
        target: [V, 4, 4] the same cameras in the other world, same axes.

    Returns:
        s, R, t, and the root-mean-square distance of the mapped centres, relative to their spread.
    """
    turn = np.einsum("vij,vkj->ik", target[:, :3, :3], source[:, :3, :3])
    left, _, right = np.linalg.svd(turn)
    R = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    centres, wanted = source[:, :3, 3] @ R.T, target[:, :3, 3]
    centred, spread = centres - centres.mean(axis=0), wanted - wanted.mean(axis=0)
    scale = float((centred * spread).sum() / max((centred**2).sum(), 1e-30))
    t = wanted.mean(axis=0) - scale * centres.mean(axis=0)
    error = np.sqrt(((scale * centred - spread) ** 2).sum() / max((spread**2).sum(), 1e-30))
    return scale, R, t, float(error)


def _check_counts(folder: Path) -> None:
    """pycolmap believes the number of entries at a file's beginning, and reads on for hours beyond its end. Raises
    ValueError: a file is too short for its number of entries."""
    for name, least in LEAST_BYTES.items():
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                head = file.read(8)
            count, size = int.from_bytes(head, "little"), (folder / name).stat().st_size
            if len(head) < 8 or 8 + count * least > size:
                raise ValueError(f"{name} is cut off or damaged: {size:,} bytes for {count:,} entries")


def _check_size(file: Path, entries: list[int]) -> None:
    """pycolmap takes what lies beyond the end of a file for numbers. Raises ValueError: the file is shorter than its
    `entries`, in bytes."""
    if file.is_file() and file.stat().st_size < 8 + sum(entries):
        raise ValueError(f"{file.name} is cut off or damaged: {file.stat().st_size:,} of {8 + sum(entries):,} bytes")


def _observations(image: pycolmap.Image, camera: pycolmap.Camera, place: dict[int, int]) -> tuple[IntArray, FloatArray]:
    """Point indices [m] and rays [m, 2] of the image's triangulated observations."""
    seen = [(place[p.point3D_id], p.xy) for p in image.points2D if p.point3D_id in place]
    point = np.array([index for index, _ in seen], dtype=np.int64)
    pixels = np.array([xy for _, xy in seen], dtype=np.float64).reshape(-1, 2)
    ray = np.asarray(camera.cam_from_img(pixels), dtype=np.float64).reshape(-1, 2)
    valid = np.isfinite(ray).all(axis=1)
    return point[valid], ray[valid]


def _c2w(image: pycolmap.Image) -> FloatArray:
    pose = np.eye(4)
    pose[:3] = image.cam_from_world().inverse().matrix()
    return pose
