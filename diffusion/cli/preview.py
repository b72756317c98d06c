"""Before and after, side by side: a PNG sheet and a video."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diffusion.files import replacing
from diffusion.inputs.clips import save_image

Frames = NDArray[np.float32]


TITLE_HEIGHT = 14
"""Height in pixels of the bar with the columns' titles."""


def side_by_side(columns: dict[str, Frames]) -> NDArray[np.uint8]:
    """Clips [T, H, W, 3 or 1] in [0, 1] by their titles -> [T, TITLE_HEIGHT + H, W * len(columns), 3] uint8.

    One channel is shown as grey; the titles stand in a bar on top."""
    wide = [np.broadcast_to(c, (*c.shape[:3], 3)) for c in columns.values()]
    frames = (np.concatenate(wide, axis=2) * 255 + 0.5).clip(0, 255).astype(np.uint8)
    width = wide[0].shape[2]
    bar = Image.new("RGB", (frames.shape[2], TITLE_HEIGHT))
    for i, title in enumerate(columns):
        cell = Image.new("RGB", (width, TITLE_HEIGHT))  # cuts a title that is too long
        ImageDraw.Draw(cell).text((3, 1), title, fill="white")
        bar.paste(cell, (i * width, 0))
    return np.concatenate([np.broadcast_to(np.asarray(bar), (len(frames), *np.asarray(bar).shape)), frames], axis=1)


def shown_disparity(depth: Frames) -> Frames:
    """Depth [T, H, W, 1] (0 = hole) as grey in [0, 1], nearest white, holes black; 2 % of either end are clipped."""
    valid = depth > 0
    if not valid.any():
        return np.zeros_like(depth, dtype=np.float32)
    disparity = np.where(valid, 1.0 / np.where(valid, depth, 1.0), 0.0)
    low, high = np.quantile(disparity[valid], [0.02, 0.98])
    span = high - low if high > low else 1.0
    return np.where(valid, (disparity - low) / span, 0.0).clip(0, 1).astype(np.float32)


def write_sheet(path: Path, frames: NDArray[np.uint8], rows: int = 8) -> None:
    """Write up to `rows` evenly spaced frames [T, H, W, 3], one below the other, as an image."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(rows, len(frames))).round().astype(int))
    save_image(Image.fromarray(np.concatenate(list(frames[chosen]), axis=0)), path)


def write_video(path: Path, frames: NDArray[np.uint8], fps: int = 8) -> None:
    """Write frames [T, H, W, 3] as an MP4."""
    # H.264 in its common form wants even sides.
    even = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    with replacing(path) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = even.shape[1], even.shape[2], "yuv420p"
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
