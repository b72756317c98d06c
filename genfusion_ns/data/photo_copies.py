"""Photos as COLMAP and training want them: 8-bit RGB, upright, of bounded size, with names without spaces."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from genfusion_ns.data.features import Advance
from genfusion_ns.data.photos import check_photos
from genfusion_ns.errors import UserError
from genfusion_ns.files import LEFTOVERS, replacing

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
"""What is taken for a photo."""
_UNREADABLE_SUFFIXES = (".heic", ".heif", ".avif", ".dng", ".cr2", ".nef", ".arw", ".mp4", ".mov")
"""What looks like a capture but can't be read, so that the user may be told."""
MAX_BROKEN = 0.05
"""Up to this share of broken photos is skipped with a warning."""


@dataclass(frozen=True)
class PhotoList:
    """The usable photos of a folder."""

    paths: list[Path]
    """Sorted by name."""
    names: list[str]
    """What their copies are called."""
    notes: list[str]
    """Warnings."""


def list_photos(folder: Path) -> PhotoList:
    """Find and check the photos of a folder and its subfolders. Raises UserError: no such folder, fewer than two photos
    in it, or more than 5 % of them broken."""
    if not folder.is_dir():
        raise UserError(f"Found no folder {folder}. Give the folder that holds your photos as --images.")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder))
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    foreign = [path for path in files if path.suffix.lower() in _UNREADABLE_SUFFIXES]
    notes = []
    if foreign:
        notes.append(f"{len(foreign)} files such as {foreign[0].name} are not read; convert them to JPEG first.")
    checks = check_photos(paths)
    faulty = [(path, check) for path, check in zip(paths, checks, strict=True) if check.fault]
    sound = [path for path, check in zip(paths, checks, strict=True) if not check.fault]
    listing = "\n".join(f"  {path.relative_to(folder)}: {check.found}" for path, check in faulty)
    if len(faulty) > MAX_BROKEN * len(paths):
        raise UserError(
            f"{len(faulty)} of {len(paths)} photos in {folder} can't be used:\n{listing}\nExpected complete images "
            "with 8 bits per channel. Copy them again, convert 16-bit ones (magick mogrify -depth 8 FILES), or move "
            "them away."
        )
    if len(sound) < 2:
        raise UserError(
            f"Found {len(sound)} photos in {folder} ({', '.join(SUFFIXES)}); expected at least 2 that overlap, better "
            f"20 or more. Give the folder that holds your photos as --images. {' '.join(notes)}".strip()
        )
    if faulty:
        notes.append(f"skipping {len(faulty)} of {len(paths)} photos:\n{listing}")
    if any(check.has_alpha for check in checks):
        notes.append("some photos have an alpha channel; they are blended with black.")
    return PhotoList(sound, _copy_names(sound, folder), notes)


def fingerprint(photos: PhotoList) -> list[list[str | int]]:
    """Name, size and time of every photo; changes when a photo is added, removed, renamed or edited."""
    stats = [path.stat() for path in photos.paths]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(photos.names, stats, strict=True)]


def copy_photos(photos: PhotoList, target: Path, max_size: int, advance: Advance) -> list[tuple[int, int]]:
    """Copy every photo to `target` under its new name, skipping those that are there, and shrunk to `max_size` pixels
    on the long side (0 = never); returns widths and heights."""
    target.mkdir(parents=True, exist_ok=True)
    for left in target.glob(LEFTOVERS):
        left.unlink()
    sizes = []
    for path, name in zip(photos.paths, photos.names, strict=True):
        if not (target / name).is_file():
            with replacing(target / name) as partial:
                _copy(path, partial, max_size)
        with Image.open(target / name) as copy:
            sizes.append(copy.size)
        advance(1)
    return sizes


def _copy(path: Path, target: Path, max_size: int) -> None:
    with Image.open(path) as image:
        exif = image.getexif()
        upright = exif.get(ExifTags.Base.Orientation, 1) == 1
        fits = max_size <= 0 or max(image.size) <= max_size
        plain = image.format in ("JPEG", "PNG") and image.mode == "RGB"
        if upright and fits and plain and path.suffix == target.suffix:
            shutil.copyfile(path, target)
            return
        picture = _flat(ImageOps.exif_transpose(image))
        if not fits:
            picture.thumbnail((max_size, max_size), Image.Resampling.LANCZOS)
        # The focal length is kept: COLMAP starts its calibration from it.
        exif.pop(ExifTags.Base.Orientation, None)
        picture.save(target, quality=95, subsampling=0, exif=exif)


def _flat(image: Image.Image) -> Image.Image:
    """RGB, blended with black where the image is transparent."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def _copy_names(paths: Sequence[Path], folder: Path) -> list[str]:
    """One flat, unique name per photo; COLMAP's lists of pairs can't hold spaces."""
    names: list[str] = []
    for path in paths:
        plain = "_".join(path.relative_to(folder).with_suffix("").as_posix().replace("/", "_").split())
        suffix = ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
        name, number = f"{plain}{suffix}", 2
        while name in names:
            name, number = f"{plain}-{number}{suffix}", number + 1
        names.append(name)
    return names


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
