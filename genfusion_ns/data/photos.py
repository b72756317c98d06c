"""Checks of image files: each photo is decoded once, and everything that is wrong with it is said in words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import ExifTags, Image, UnidentifiedImageError

PhotoFault = Literal[
    "missing", "unreadable", "size", "rotated", "deep", "mask missing", "mask unreadable", "mask size", "mask black"
]

# What Pillow calls 16-bit and float images.
_DEEP_MODES = ("I", "F")


@dataclass(frozen=True)
class PhotoCheck:
    """What one image file holds."""

    fault: PhotoFault | None = None
    """Why the photo can't be used, None where it can."""
    found: str = ""
    """The fault's value in words."""
    size: tuple[int, int] = (0, 0)
    """Width and height as stored; zeros where the file can't be read."""
    has_alpha: bool = False
    orientation: int = 1
    """EXIF orientation, 1 = as stored, 5-8 = a quarter turn."""


def check_photos(paths: Sequence[Path], sizes: Sequence[tuple[int, int]] | None = None) -> list[PhotoCheck]:
    """Decode every file of `paths`; `sizes` are the widths and heights that the intrinsics belong to."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(check_photo, paths, [None] * len(paths) if sizes is None else sizes))


def check_photo(path: Path, expected: tuple[int, int] | None) -> PhotoCheck:
    """Decode one file and name its first fault: missing, unreadable, 16-bit, or not of the `expected` size."""
    if not path.is_file():
        return PhotoCheck("missing", "there is no such file")
    if path.stat().st_size == 0:
        return PhotoCheck("unreadable", "the file is empty")
    try:
        with Image.open(path) as image:
            size, mode, orientation = image.size, image.mode, _orientation(image)
            has_alpha = mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            # A draft is decoded at an eighth of the size from all of the file's bytes: cheap, and truncation shows.
            image.draft("RGB", (max(size[0] // 8, 1), max(size[1] // 8, 1)))
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return PhotoCheck("unreadable", _reason(error))
    check = PhotoCheck(size=size, has_alpha=has_alpha, orientation=orientation)
    if mode.startswith(_DEEP_MODES):
        return replace(check, fault="deep", found=f"its pixels are of mode {mode}")
    return check if expected is None or size == expected else _wrong_size(check, expected)


def with_mask(check: PhotoCheck, mask: Path, expected: tuple[int, int]) -> PhotoCheck:
    """The check of a sound photo, with the first fault of its mask: missing, unreadable, of several channels, not of
    the `expected` width and height, or black all over."""
    if check.fault is not None:
        return check
    if not mask.is_file():
        return replace(check, fault="mask missing", found=f"there is no {mask}")
    try:
        with Image.open(mask) as image:
            if len(image.getbands()) > 1:
                return replace(check, fault="mask unreadable", found=f"{mask} has {len(image.getbands())} channels")
            if image.size != expected:
                sizes = "{}x{} pixels, its photo {}x{}".format(*image.size, *expected)
                return replace(check, fault="mask size", found=f"{mask} has {sizes}")
            brightest = image.getextrema()[1]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return replace(check, fault="mask unreadable", found=f"{mask}: {_reason(error)}")
    return check if brightest else replace(check, fault="mask black", found=f"{mask} is black all over")


def photo_size(path: Path) -> tuple[int, int] | None:
    """Width and height as the file's header tells them; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError):
        return None


def _wrong_size(check: PhotoCheck, expected: tuple[int, int]) -> PhotoCheck:
    width, height = check.size
    text = f"it has {width}x{height} pixels, its intrinsics are for {expected[0]}x{expected[1]}"
    if check.orientation >= 5 and (height, width) == expected:
        turned = f"{text}, and its EXIF orientation {check.orientation} turns it by a quarter"
        return replace(check, fault="rotated", found=turned)
    return replace(check, fault="size", found=text)


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _reason(error: Exception) -> str:
    if "truncated" in str(error).lower():
        return f"the file is truncated ({error})"
    if isinstance(error, UnidentifiedImageError):
        return "it is in no image format that Pillow knows"
    return f"it can't be decoded ({type(error).__name__}: {error})"
