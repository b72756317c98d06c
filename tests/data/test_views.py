"""Training views: pixels, colours and names."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from genfusion_ns.cameras import project
from genfusion_ns.data.views import (
    find_by_name,
    inside,
    photo_colours,
    to_pixels,
    to_rays,
    view_arrays,
)


def test_pixels_agree_with_the_cameras_projection(capture):
    data = capture(3)
    cameras = view_arrays(data.views())
    for v, view in enumerate(data.views()):
        own = data.tracks.image == v
        pixels = to_pixels(data.tracks.ray[own], cameras.K[v])
        wanted, _ = project(torch.from_numpy(data.xyz[data.tracks.point[own]]), view.camera)
        np.testing.assert_allclose(pixels, wanted.numpy(), atol=1e-9)
        np.testing.assert_allclose(to_rays(pixels, cameras.K[v]), data.tracks.ray[own], atol=1e-12)
    np.testing.assert_allclose(cameras.centres, data.c2w[:, :3, 3], atol=1e-12)
    np.testing.assert_allclose(cameras.axes, data.c2w[:, :3, 2], atol=1e-12)


def test_colours_agree_with_torch_grid_sample():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (7, 9, 3)).astype(np.uint8)
    pixels = rng.uniform(-0.5, [9.5, 7.5], (200, 2))
    tensor = torch.from_numpy(image).double().permute(2, 0, 1)[None]
    grid = torch.from_numpy(pixels / [9, 7] * 2 - 1)[None, None]
    wanted = torch.nn.functional.grid_sample(tensor, grid, padding_mode="border", align_corners=False)
    np.testing.assert_allclose(photo_colours(image, pixels), wanted[0, :, 0].T.numpy(), atol=1e-9)


@given(x=st.integers(0, 8), y=st.integers(0, 6))
def test_pixel_centres_give_the_pixels_own_colour(x, y):
    image = np.arange(7 * 9 * 3).reshape(7, 9, 3).astype(np.uint8)
    assert (photo_colours(image, np.array([[x + 0.5, y + 0.5]]))[0] == image[y, x]).all()


def test_inside_is_half_open():
    pixels = np.array([[0.0, 0.0], [9.0, 3.0], [8.99, 6.99], [-0.01, 3.0], [3.0, 7.0]])
    assert inside(pixels, np.array([9.0, 7.0])).tolist() == [True, False, True, False, False]


def test_names_match_by_path_then_file_name_then_stem():
    names = ["a/1.jpg", "b/1.jpg", "b/2.jpg", "3.png"]
    wanted = ["b/1.jpg", "/scene/images/2.jpg", "images/3.jpg", "1.jpg", "4.jpg"]
    assert find_by_name(names, wanted) == [1, 2, 3, None, None]


def test_equal_file_names_are_told_apart_by_their_folders():
    names = ["left/1.jpg", "right/1.jpg", "right/2.jpg"]
    wanted = ["/scene/images/right/1.jpg", "/scene/images/left/1.png", "/scene/images/2.jpg"]
    assert find_by_name(names, wanted) == [1, 0, 2]
    # one flat name can't be two photos
    assert find_by_name(["1.jpg"], ["left/1.jpg", "right/1.jpg"]) == [None, None]
