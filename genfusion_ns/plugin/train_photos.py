"""Photos as they are trained on: the sound ones, cropped to their window, reduced to the longest side allowed, cameras
kept exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.utils.rich_utils import CONSOLE
from numpy.typing import NDArray
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.data.mask import Window, fixed_window, moving_window
from genfusion_ns.data.validate import validate_scene
from genfusion_ns.errors import UserError
from genfusion_ns.plugin.dataparser import subset

BENT = ("PERSPECTIVE", "FISHEYE", "FISHEYE624")
"""Camera types whose distortion Nerfstudio removes."""


def fit_photo(data: dict[str, Any], cameras: Cameras, index: int, window: Window | None, max_side: int | None) -> None:
    """Crop and reduce one cached photo (and its mask) and change camera `index` in place to match.

    Args:
        data: Nerfstudio's cache entry; `image` [H, W, 3|4] uint8 or float in [0, 1], maybe `mask` [H, W, 1].
        cameras: the dataset's cameras, already of the photo's size.
        index: which of them.
        window: part to keep, in pixels of the photo; None = all of it.
        max_side: longest side of the whole photo afterwards, in pixels; None or larger than the photo = no change. A
            window is reduced by the same factor, so that it trains at the scale that full photos are evaluated at.
    """
    height, width = data["image"].shape[:2]
    window = window or Window(0, 0, width, height)
    scale = min(1.0, max_side / max(width, height)) if max_side else 1.0
    size = max(1, round(window.width * scale)), max(1, round(window.height * scale))
    if window == (0, 0, width, height) and size == (width, height):
        return
    data["image"] = _cut(data["image"], window, size, cv2.INTER_AREA)
    if "mask" in data:
        data["mask"] = _cut(data["mask"], window, size, cv2.INTER_NEAREST)
    x_scale, y_scale = size[0] / window.width, size[1] / window.height
    cameras.cx[index] = (cameras.cx[index] - window.x) * x_scale
    cameras.cy[index] = (cameras.cy[index] - window.y) * y_scale
    cameras.fx[index] *= x_scale
    cameras.fy[index] *= y_scale
    cameras.width[index], cameras.height[index] = size


def seen_window(mask: str, number: int, width: int, height: int) -> Window | None:
    """The part of a training photo that is seen with `mask` "none" (None: all of it), "fixed" or "moving", which goes
    by the photo's place among all of the scene."""
    if mask == "none":
        return None
    return fixed_window(width, height) if mask == "fixed" else moving_window(number, width, height)


def full_frame(camera: Camera, window: Window, size: tuple[int, int]) -> Camera:
    """The whole photo's camera, of width and height `size`, at the scale of the window that is trained on."""
    across, down = camera.width / window.width, camera.height / window.height
    K = camera.K.clone()
    K[0, 2] += window.x * across
    K[1, 2] += window.y * down
    return replace(camera, K=K, width=round(size[0] * across), height=round(size[1] * down))


def _cut(image: Tensor, window: Window, size: tuple[int, int], interpolation: int) -> Tensor:
    x, y, width, height = window
    array = np.ascontiguousarray(image[y : y + height, x : x + width].numpy())
    if (width, height) != size:
        kind = array.dtype
        array = cv2.resize(array.astype(np.uint8) if kind == np.bool_ else array, size, interpolation=interpolation)
        array = array.astype(kind).reshape(size[1], size[0], -1)
    return torch.from_numpy(array)


def rgb_uint8(image: Tensor) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 of a cached photo [H, W, 3|4], uint8 or float in [0, 1]; alpha is dropped."""
    image = image[..., :3].cpu()
    return (image if image.dtype == torch.uint8 else (image * 255.0).round().to(torch.uint8)).numpy()


def check_types(cameras: Cameras) -> None:
    """Cameras that Nerfstudio makes pinholes of when it loads the photos, whichever dataparser read them. Raises
    UserError: panoramas, orthographic and stereo cameras."""
    foreign = sorted({CameraType(int(kind)).name for kind in cameras.camera_type.unique()} - set(BENT))
    if foreign:
        raise UserError(
            f"the scene's cameras are of the type {', '.join(foreign)}; expected {', '.join(BENT)}, which become "
            "pinholes. Cut perspective views out of the photos first."
        )


def checked(outputs: DataparserOutputs, minimum: int = 2) -> DataparserOutputs:
    """The frames whose photos and poses are sound; fewer than `minimum` are not enough. Raises UserError: what is wrong
    with the scene, all offenders at once."""
    cameras = outputs.cameras
    check_types(cameras)
    report = validate_scene(
        outputs.image_filenames,
        cameras.camera_to_worlds.double().numpy(),
        cameras.get_intrinsics_matrices().double().numpy(),
        cameras.width.flatten().numpy(),
        cameras.height.flatten().numpy(),
        masks=outputs.mask_filenames,
        distortion=None if cameras.distortion_params is None else cameras.distortion_params.numpy(),
        minimum=minimum,
    )
    for note in report.notes:
        CONSOLE.print(f"[yellow]note:[/] {note}", soft_wrap=True)
    if len(report.keep) == len(outputs.image_filenames):
        return outputs
    ids = outputs.metadata.get("image_ids", range(len(outputs.image_filenames)))
    kept = subset(outputs, report.keep)
    kept.metadata["image_ids"] = [ids[i] for i in report.keep]
    return kept
