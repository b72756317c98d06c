"""Masked input: of every training photo only a quarter, a window of half its width and height, is known.

The window is cut out and the principal point moves with it (`Camera.window`), so nothing downstream knows a mask:
the camera of a cropped photo simply has a smaller image. Windows belong to the photo's place in the file-name-sorted
list of the whole capture, never to its place among the training photos, so that thinning the training set moves no
window.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from genfusion_ns.errors import UserError

Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]

# The evaluation's moving window, in the 960x540 frames for which it was published.
_RASTER = (960, 540)
_START = (102, 106)
_STEP = 5


class Window(NamedTuple):
    """A part of an image in whole pixels."""

    x: int
    """Column of its left-most pixels."""
    y: int
    """Row of its top-most pixels."""
    width: int
    height: int


def fixed_window(width: int, height: int, corner: Corner = "top-left") -> Window:
    """The quarter of a `width` x `height` photo at one corner, the same for every photo (the paper's training data).
    Raises UserError: the photo is smaller than 2x2, or `corner` is none of the four."""
    half = _half(width, height)
    vertical, _, horizontal = corner.partition("-")
    if vertical not in ("top", "bottom") or horizontal not in ("left", "right"):
        raise UserError(f"Found window corner {corner!r}; expected top-left, top-right, bottom-left or bottom-right.")
    x = width - half[0] if horizontal == "right" else 0
    y = height - half[1] if vertical == "bottom" else 0
    return Window(x, y, *half)


def moving_window(index: int, width: int, height: int) -> Window:
    """The window of photo `index` on the bouncing path of the published evaluation.

    In a 960x540 photo the window is 480x270, starts at (102, 106) and moves by 5 pixels on each axis from photo to
    photo; an axis turns round where its next value would leave [0, 480) or [0, 270). Other sizes scale the path.

    Raises:
        UserError: the photo is smaller than 2x2.
    """
    half = _half(width, height)
    x = _bounce(index, _START[0], _RASTER[0] // 2) * width // _RASTER[0]
    y = _bounce(index, _START[1], _RASTER[1] // 2) * height // _RASTER[1]
    return Window(x, y, *half)


def _half(width: int, height: int) -> tuple[int, int]:
    if min(width, height) < 2:
        raise UserError(
            f"Found a photo of {width}x{height} pixels; masked input needs at least 2x2 to cut a quarter out."
        )
    return width // 2, height // 2


def _bounce(index: int, start: int, limit: int) -> int:
    """Value `index` of the walk that starts at `start`, moves by _STEP and turns before it leaves [0, limit)."""
    # The walk runs to and fro between its lowest and its highest value, so it is a triangle wave in whole steps.
    low = start % _STEP
    top = (limit - 1 - low) // _STEP
    phase = (start // _STEP + index) % (2 * top)
    return low + _STEP * min(phase, 2 * top - phase)
