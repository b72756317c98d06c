"""Masked input: the published window path and its generalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genfusion_ns.cameras import Camera, pixel_rays
from genfusion_ns.data.mask import fixed_window, moving_window
from genfusion_ns.errors import UserError


def reference_path(count: int) -> list[tuple[int, int]]:
    """The published walk, step by step: an axis turns round where its next value would leave its range."""
    (x, y), dx, dy = (102, 106), 5, 5
    rows = []
    for _ in range(count):
        rows.append((x, y))
        dx = dx if 0 <= x + dx < 480 else -dx
        dy = dy if 0 <= y + dy < 270 else -dy
        x, y = x + dx, y + dy
    return rows


def test_published_rows():
    rows = {0: (102, 106), 1: (107, 111), 2: (112, 116), 70: (452, 76), 75: (477, 51), 80: (452, 26), 85: (427, 1)}
    for index, place in rows.items():
        assert moving_window(index, 960, 540) == (*place, 480, 270)


def test_whole_published_walk():
    rows = reference_path(1000)
    assert [moving_window(index, 960, 540)[:2] for index in range(1000)] == rows
    x, y = np.array(rows).T
    assert (x.min(), x.max(), y.min(), y.max()) == (2, 477, 1, 266)


def test_windows_of_150_photos_cover_92_percent():
    seen = np.zeros((540, 960), bool)
    for index in range(0, 300, 2):
        x, y, width, height = moving_window(index, 960, 540)
        seen[y : y + height, x : x + width] = True
    assert round(100 * seen.mean(), 1) == 92.2


@given(index=st.integers(0, 10_000), width=st.integers(2, 4000), height=st.integers(2, 4000))
def test_windows_are_a_quarter_and_inside(index, width, height):
    windows = [moving_window(index, width, height)]
    windows += [fixed_window(width, height, c) for c in ("top-left", "top-right", "bottom-left", "bottom-right")]
    for x, y, w, h in windows:
        assert (w, h) == (width // 2, height // 2)
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height


def test_path_scales_with_the_photo():
    for index in (0, 17, 75, 333):
        x, y, w, h = moving_window(index, 960, 540)
        assert moving_window(index, 1920, 1080) == (2 * x, 2 * y, 2 * w, 2 * h)


def test_corners():
    assert fixed_window(640, 480, "top-left") == (0, 0, 320, 240)
    assert fixed_window(641, 481, "bottom-right") == (321, 241, 320, 240)
    assert fixed_window(640, 480, "top-right") == (320, 0, 320, 240)
    assert fixed_window(640, 480, "bottom-left") == (0, 240, 320, 240)
    with pytest.raises(UserError, match="corner 'middle'; expected top-left"):
        fixed_window(640, 480, "middle")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="1x480 pixels"):
        fixed_window(1, 480)


@given(index=st.integers(0, 500))
def test_a_window_keeps_every_pixels_ray(index):
    K = torch.tensor([[70.0, 0, 33], [0, 80, 21], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(torch.eye(4, dtype=torch.float64), K, 64, 36)
    x, y, w, h = moving_window(index, 64, 36)
    seen = camera.window(x, y, w, h)
    assert (seen.width, seen.height) == (w, h)
    torch.testing.assert_close(pixel_rays(seen), pixel_rays(camera)[y : y + h, x : x + w])
