"""Side-by-side sheets and videos."""

from __future__ import annotations

import av
import numpy as np
import pytest
from PIL import Image

from diffusion.cli import preview

rng = np.random.default_rng(0)


def test_columns_stand_side_by_side_in_their_order():
    rgb, grey = rng.random((2, 4, 60, 3), np.float32), rng.random((2, 4, 60, 1), np.float32)
    out = preview.side_by_side({"a photo": rgb, "depth": grey})
    assert out.shape == (2, preview.TITLE_HEIGHT + 4, 120, 3) and out.dtype == np.uint8
    bar, pictures = out[:, : preview.TITLE_HEIGHT], out[:, preview.TITLE_HEIGHT :]
    assert np.abs(pictures[:, :, :60] / 255 - rgb).max() <= 0.5 / 255 + 1e-6
    assert np.abs(pictures[:, :, 60:] / 255 - grey).max() <= 0.5 / 255 + 1e-6
    written = [(half > 128).sum() for half in (bar[0, :, :60], bar[0, :, 60:])]
    assert min(written) > 30 and written[0] != written[1]  # a title over each column, and not the same
    assert np.array_equal(bar[0], bar[1])


def test_shown_disparity_is_bright_where_near_and_black_in_holes():
    depth = np.linspace(1, 10, 100, dtype=np.float32).reshape(1, 10, 10, 1)
    depth[0, 0, 5] = 0
    shown = preview.shown_disparity(depth)
    assert shown[0, 0, 5] == 0 and shown[0, 0, 0] == 1 and shown[0, 9, 9] == 0
    valid = shown[depth > 0]
    assert (np.diff(valid) <= 0).all() and ((valid >= 0) & (valid <= 1)).all()


@pytest.mark.parametrize("fill", [0.0, 2.0])
def test_shown_disparity_of_empty_or_constant_depth_is_finite(fill):
    assert np.isfinite(preview.shown_disparity(np.full((1, 2, 2, 1), fill, np.float32))).all()


@pytest.mark.parametrize(("frames", "rows"), [(1, 1), (5, 5), (20, 8)])
def test_a_sheet_shows_first_and_last_frame(tmp_path, frames, rows):
    video = rng.integers(0, 256, (frames, 4, 6, 3), dtype=np.uint8)
    preview.write_sheet(tmp_path / "sheet.png", video)
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (4 * rows, 6, 3)
    assert np.array_equal(sheet[:4], video[0]) and np.array_equal(sheet[-4:], video[-1])


def test_an_mp4_keeps_the_frames(tmp_path):
    # Odd sides, which the codec does not take as they are.
    video = np.zeros((4, 31, 45, 3), np.uint8)
    video[:] = np.array([30, 90, 150, 210], np.uint8)[:, None, None, None]
    path = tmp_path / "v.mp4"
    preview.write_video(path, video)
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]
    with av.open(str(path)) as container:
        back = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert back.shape == (4, 32, 46, 3)
    assert np.abs(back[:, :31, :45].astype(int) - video).mean() < 6
