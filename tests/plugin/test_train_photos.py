"""Cropping and reducing photos keeps the camera exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import CameraType
from plugin_cameras import nerfstudio_camera

from genfusion_ns.cameras import Camera
from genfusion_ns.data.mask import Window
from genfusion_ns.errors import UserError
from genfusion_ns.plugin.bridge import core_camera
from genfusion_ns.plugin.train_photos import check_types, fit_photo, rgb_uint8


def gradient_photo(width: int, height: int) -> torch.Tensor:
    """A photo whose red is x and green is y in pixels / 100: resizing it must give those of the new pixel centres."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x / 100, y / 100, torch.zeros_like(x)], -1)


def base_camera(width: int, height: int):
    K = torch.tensor([[60.0, 0.0, 33.0], [0.0, 55.0, 21.0], [0.0, 0.0, 1.0]])
    return nerfstudio_camera(Camera(torch.eye(4), K, width, height))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 15), st.sampled_from([8, 16, 32]))
def test_pixel_keeps_its_ray(x, y, max_side):
    """The colour at a reduced pixel names the source position; both must look along the same ray."""
    cameras = base_camera(64, 48)
    data = {"image": gradient_photo(64, 48)}
    fit_photo(data, cameras, 0, Window(x, y, 32, 24), max_side)
    camera = core_camera(cameras)
    image = data["image"]
    assert image.shape == (camera.height, camera.width, 3) and max(image.shape[:2]) <= max_side
    source = image[..., :2] * 100
    columns = torch.arange(camera.width) + 0.5
    rows = torch.arange(camera.height) + 0.5
    expected_x = 33.0 + 60.0 * (columns - camera.K[0, 2]) / camera.K[0, 0]
    expected_y = 21.0 + 55.0 * (rows - camera.K[1, 2]) / camera.K[1, 1]
    assert torch.allclose(source[..., 0], expected_x.expand(len(rows), -1), atol=1e-3)
    assert torch.allclose(source[..., 1], expected_y[:, None].expand(-1, len(columns)), atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 64), st.integers(8, 48), st.integers(12, 80))
def test_window_and_full_photo_have_one_scale(width, height, max_side):
    """Up to the rounding of the window's own size."""
    scales = []
    for window in (None, Window(0, 0, width, height)):
        cameras = base_camera(64, 48)
        fit_photo({"image": gradient_photo(64, 48)}, cameras, 0, window, max_side)
        scales.append(torch.stack([cameras.fx[0, 0] / 60, cameras.fy[0, 0] / 55]))
    rounding = torch.tensor([0.5 / width + 0.5 / 64, 0.5 / height + 0.5 / 48])
    assert ((scales[0] - scales[1]).abs() <= rounding + 1e-6).all()


def test_nothing_to_do_changes_nothing():
    cameras = base_camera(64, 48)
    before = gradient_photo(64, 48)
    data = {"image": before}
    fit_photo(data, cameras, 0, None, 64)
    assert data["image"] is before
    assert int(cameras.width) == 64 and float(cameras.cx) == 33.0


def test_mask_stays_binary_and_uint8_stays_uint8():
    cameras = base_camera(64, 48)
    mask = torch.zeros(48, 64, 1, dtype=torch.bool)
    mask[:, 32:] = True
    data = {"image": (gradient_photo(64, 48) * 255).to(torch.uint8), "mask": mask}
    fit_photo(data, cameras, 0, None, 16)
    assert data["image"].dtype == torch.uint8
    assert data["mask"].dtype == torch.bool and data["mask"].shape == (12, 16, 1)
    assert not data["mask"][:, :8].any() and data["mask"][:, 8:].all()


def test_rgb_uint8_drops_alpha_and_rounds():
    image = torch.tensor([[[0.0, 1.0, 0.5, 0.3]]])
    assert rgb_uint8(image).tolist() == [[[0, 255, 128]]]


@pytest.mark.parametrize("kind", [CameraType.EQUIRECTANGULAR, CameraType.ORTHOPHOTO])
def test_cameras_that_never_become_pinholes_are_refused_whoever_read_them(kind):
    camera = base_camera(64, 48)
    check_types(camera)
    camera.camera_type = torch.full_like(camera.camera_type, kind.value)
    with pytest.raises(UserError, match=f"type {kind.name}; expected PERSPECTIVE, FISHEYE"):
        check_types(camera)
