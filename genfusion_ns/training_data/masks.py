"""Which pixels of each photo of a path are known: pure functions of a seed, the number of frames and their size.

Every function returns bool masks [F, H, W], True = known. `data.mask` makes the windows of the published protocols.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from genfusion_ns.data.mask import Window, fixed_window, moving_window

Masks = NDArray[np.bool_]

_CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")


def corner_masks(seed: int, count: int, width: int, height: int) -> Masks:
    """One of the four quadrants, the same in all frames (the paper's training data: 25 % seen)."""
    corner = _CORNERS[int(np.random.default_rng([seed, 1]).integers(4))]
    return np.repeat(_filled(fixed_window(width, height, corner), width, height)[None], count, axis=0)


def window_masks(seed: int, count: int, width: int, height: int, share: float) -> Masks:
    """One window of the photo's proportions that covers `share` of it, at one place in all frames."""
    rng = np.random.default_rng([seed, 2])
    side = np.sqrt(share)
    w, h = max(1, round(width * side)), max(1, round(height * side))
    x, y = (int(rng.integers(0, limit + 1)) for limit in (width - w, height - h))
    return np.repeat(_filled(Window(x, y, w, h), width, height)[None], count, axis=0)


def moving_masks(seed: int, count: int, width: int, height: int) -> Masks:
    """A quarter-sized window on the published evaluation's bouncing path, entered anywhere, at 1 to 8 times its
    speed."""
    rng = np.random.default_rng([seed, 3])
    start, pace = int(rng.integers(0, 200)), int(rng.integers(1, 9))
    windows = [moving_window(start + pace * frame, width, height) for frame in range(count)]
    return np.stack([_filled(window, width, height) for window in windows])


def polygon_masks(seed: int, count: int, width: int, height: int, share: float) -> Masks:
    """An irregular star-shaped polygon that drifts slowly over the photo and covers about `share` of each frame."""
    rng = np.random.default_rng([seed, 4])
    corners = int(rng.integers(5, 14))
    # no gap reaches half a turn, so that the polygon can grow over the whole frame
    angle = 2 * np.pi * (np.arange(corners) + rng.uniform(0, 0.8, corners) + rng.random()) / corners
    reach = rng.uniform(0.45, 1.0, corners)
    start, drift = rng.uniform(0.25, 0.75, 2), rng.uniform(-0.3, 0.3, 2)
    outline = np.column_stack([np.sin(angle), np.cos(angle)]) * reach[:, None]
    along = np.linspace(0.0, 1.0, count)[:, None] if count > 1 else np.zeros((1, 1))
    centres = np.clip(start + along * drift, 0.1, 0.9) * [height, width]
    return np.stack([_polygon(outline, centre, width, height, share) for centre in centres])


def _polygon(outline: NDArray, centre: NDArray, width: int, height: int, share: float) -> NDArray[np.bool_]:
    """The outline [n, 2] (rows, columns) about `centre`, grown until it covers `share` of the frame."""
    low, high = 0.0, 4.0 * float(np.hypot(width, height))
    best = np.zeros((height, width), bool)
    best[int(centre[0]), int(centre[1])] = True
    for _ in range(14):
        middle = (low + high) / 2
        mask = polygon2mask((height, width), centre + middle * outline)
        if mask.mean() <= share:
            low = middle
            best = mask if mask.any() else best
        else:
            high = middle
    return best


def _filled(window: Window, width: int, height: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    mask[window.y : window.y + window.height, window.x : window.x + window.width] = True
    return mask
