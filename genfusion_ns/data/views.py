"""A training view: the photo that the loss sees, and the pinhole camera of exactly that photo.

Every other file of this folder works on these. Because the camera belongs to the image as it is trained on (after
undistortion, resizing and cropping to a window), "the view sees this point" is always "the point projects into this
image", whatever was done to the photo before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from genfusion_ns.cameras import Camera

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class TrainView:
    """One training photo and its pose."""

    camera: Camera
    """Pinhole camera of `image`, in the world in which the splat is trained."""
    image: NDArray[np.uint8]
    """[H, W, 3] RGB, the pixels that training sees and no others."""
    name: str
    """The photo's file name or path; COLMAP's observations are found by it."""
    index: int
    """The photo's place in the file-name-sorted list of the whole capture."""


@dataclass(frozen=True)
class ViewArrays:
    """The poses and intrinsics of several views as float64 arrays."""

    w2c: FloatArray
    """[V, 4, 4] world to camera, OpenCV axes."""
    K: FloatArray
    """[V, 3, 3] intrinsics in pixels."""
    size: FloatArray
    """[V, 2] width and height in pixels."""

    @property
    def centres(self) -> FloatArray:
        """[V, 3] camera centres in the world."""
        return -np.einsum("vji,vj->vi", self.w2c[:, :3, :3], self.w2c[:, :3, 3])

    @property
    def axes(self) -> FloatArray:
        """[V, 3] unit viewing directions in the world."""
        return self.w2c[:, 2, :3]


def view_arrays(views: Sequence[TrainView]) -> ViewArrays:
    """Stack the cameras of `views`."""
    return ViewArrays(
        w2c=np.stack([view.camera.w2c.double().cpu().numpy() for view in views]),
        K=np.stack([view.camera.K.double().cpu().numpy() for view in views]),
        size=np.array([[view.camera.width, view.camera.height] for view in views], dtype=np.float64),
    )


def to_pixels(rays: FloatArray, K: FloatArray) -> FloatArray:
    """Pixels [..., 2] of normalised image coordinates x/z, y/z [..., 2] under intrinsics [..., 3, 3]."""
    focal = np.stack([K[..., 0, 0], K[..., 1, 1]], axis=-1)
    return rays * focal + K[..., :2, 2]


def to_rays(pixels: FloatArray, K: FloatArray) -> FloatArray:
    """Normalised image coordinates x/z, y/z [..., 2] of pixels [..., 2]; the inverse of `to_pixels`."""
    focal = np.stack([K[..., 0, 0], K[..., 1, 1]], axis=-1)
    return (pixels - K[..., :2, 2]) / focal


def inside(pixels: FloatArray, size: FloatArray) -> NDArray[np.bool_]:
    """[...] whether pixels [..., 2] lie in images of size [..., 2] (width, height)."""
    return np.all((pixels >= 0.0) & (pixels < size), axis=-1)


def photo_colours(image: NDArray[np.uint8], pixels: FloatArray) -> FloatArray:
    """Bilinear colours [N, 3] in [0, 255] of `image` [H, W, 3] at pixels [N, 2] (centres at half-integers)."""
    limit = np.array([image.shape[1] - 1, image.shape[0] - 1], dtype=np.float64)
    place = np.clip(pixels - 0.5, 0.0, limit)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, limit.astype(np.int64))
    right, down = np.split(place - low, 2, axis=1)
    top = image[low[:, 1], low[:, 0]] * (1 - right) + image[low[:, 1], high[:, 0]] * right
    bottom = image[high[:, 1], low[:, 0]] * (1 - right) + image[high[:, 1], high[:, 0]] * right
    return top * (1 - down) + bottom * down


def find_by_name(names: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """For each photo of `wanted` its index in `names`: the path that ends alike, by as many folders as possible; else
    the same without the suffix.

    COLMAP writes paths relative to its image folder, Nerfstudio relative to the scene, and some tools change the
    suffix on the way; an end that several photos of either list share is no match.
    """
    found: list[int | None] = [None] * len(wanted)
    for whole in (PurePath, lambda name: PurePath(name).with_suffix("")):
        have, asked = ([whole(path).parts for path in paths] for paths in (names, wanted))
        for depth in range(max(map(len, [*have, ()])), 0, -1):
            index, counts = _ends(have, depth), Counter(parts[-depth:] for parts in asked if len(parts) >= depth)
            for place, parts in enumerate(asked):
                if found[place] is None and counts[parts[-depth:]] == 1:
                    found[place] = index.get(parts[-depth:])
    return found


def _ends(paths: Sequence[tuple[str, ...]], depth: int) -> dict[tuple[str, ...], int]:
    """Where each of the paths' last `depth` parts stands, if only one path has it."""
    ends = [parts[-depth:] if len(parts) >= depth else () for parts in paths]
    count = Counter(ends)
    return {end: place for place, end in enumerate(ends) if end and count[end] == 1}
