"""Clips on disk: a folder of frames, or an .npz file. Reading checks; writing is atomic.

A folder holds

    rgb/        one image per frame, in the order of their names (or the images lie in the folder itself)
    depth/      optional: .npy (any float unit) or 16-bit .png of the same names; 0 = nothing rendered
    alpha/      optional: 8-bit or 16-bit .png, or .npy in [0, 1]
    reference/  one or more photos (or a single file reference.png / reference.jpg)

and an .npz file the arrays `rgb` [T,H,W,3], and if present `depth` [T,H,W] or [T,H,W,1], `alpha` likewise and
`reference` [h,w,3] or [n,h,w,3]; images are uint8, or floats in [0, 1].
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from diffusion.errors import UserError
from diffusion.files import replacing

Array = NDArray[np.float32]
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass
class Clip:
    """Frames to repair. `rgb` [T,H,W,3] and the `references` [h,w,3] are in [0, 1]; `depth` [T,H,W,1] is 0 where
    nothing was rendered, `alpha` [T,H,W,1] is in [0, 1]; either may be None. `names` are the frames' file names
    without their endings."""

    rgb: Array
    depth: Array | None = None
    alpha: Array | None = None
    references: list[Array] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def read_clip(path: Path) -> Clip:
    """Read a folder of frames or an .npz file (layouts above).

    Raises:
        UserError: if it is neither, if a file can't be read, or if sizes or counts disagree.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".npz" and path.is_file():
        return _read_npz(path)
    found = "does not exist" if not path.exists() else "is neither a folder nor an .npz file"
    raise UserError(f"clip {path} {found}; expected a folder with rgb/ or an .npz file with the array rgb")


def windows(frames: int, length: int) -> list[tuple[int, int]]:
    """(start, first new frame) of clips of `length` frames that cover all; the last one is moved back to be full."""
    starts = list(range(0, max(frames - length, 0) + 1, length))
    covered = starts[-1] + length
    out = [(start, start) for start in starts]
    return out + [(frames - length, covered)] if covered < frames else out


def read_image(path: Path) -> Array:
    """An image file as [H, W, 3] in [0, 1]. Raises UserError if it can't be read."""
    return _scaled(_open(path, "RGB"), path)


def write_repaired(folder: Path, rgb: Array, disparity: Array | None, names: list[str]) -> None:
    """Write rgb/NAME.png (8 bit), disparity/NAME.png (16 bit) and repaired.npz (rgb float16, disparity float32).

    Args:
        folder: made if it isn't there; files of the same names are replaced.
        rgb: [T, H, W, 3] in [0, 1].
        disparity: [T, H, W, 1] in [0, 1], or None.
        names: one per frame.
    """
    arrays: dict[str, NDArray[np.floating]] = {"rgb": rgb.astype(np.float16)}
    for name, frame in zip(names, rgb, strict=True):
        image = Image.fromarray((frame * 255 + 0.5).clip(0, 255).astype(np.uint8))
        save_image(image, folder / "rgb" / f"{name}.png")
    if disparity is not None:
        arrays["disparity"] = disparity.astype(np.float32)
        for name, frame in zip(names, disparity, strict=True):
            image = Image.fromarray((frame[..., 0] * 65535 + 0.5).clip(0, 65535).astype(np.uint16))
            save_image(image, folder / "disparity" / f"{name}.png")
    with replacing(folder / "repaired.npz") as temporary:
        np.savez_compressed(temporary, **arrays)  # pyright: ignore[reportArgumentType]


def save_image(image: Image.Image, path: Path) -> None:
    """Save by way of a temporary file in the same folder, which is made if it isn't there."""
    with replacing(path) as temporary:
        image.save(temporary)


def _read_folder(folder: Path) -> Clip:
    frames = folder / "rgb" if (folder / "rgb").is_dir() else folder
    files = _images(frames, skip="reference")
    if not files:
        raise UserError(f"no images ({', '.join(IMAGES)}) in {frames}; expected one file per frame")
    rgb = _stacked([read_image(file) for file in files], files)
    names = [file.stem for file in files]
    references = [read_image(file) for file in _images(folder / "reference")]
    references += [read_image(file) for file in _images(folder) if file.stem == "reference"]
    depth = _read_maps(folder / "depth", names, rgb.shape[:3], is_alpha=False)
    alpha = _read_maps(folder / "alpha", names, rgb.shape[:3], is_alpha=True)
    return Clip(rgb, depth, alpha, references, names)


def _images(folder: Path, skip: str = "") -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGES and f.stem != skip and f.name[0] != ".")


def _read_maps(folder: Path, names: list[str], shape: tuple[int, ...], is_alpha: bool) -> Array | None:
    """Depth or alpha maps [T, H, W, 1] of the named frames; None if there is no such folder."""
    if not folder.is_dir():
        return None
    maps = []
    for name in names:
        file = next((f for f in (folder / f"{name}.npy", folder / f"{name}.png") if f.is_file()), None)
        if file is None:
            raise UserError(
                f"{folder} has neither {name}.npy nor {name}.png; expected a map for each of {len(names)} frames"
            )
        values = _load_npy(file) if file.suffix == ".npy" else _open(file, None)
        if values.ndim == 3 and values.shape[-1] == 1:
            values = values[..., 0]
        if values.shape != shape[1:3]:
            raise UserError(f"{file} has the shape {values.shape}; expected {shape[1:3]} like the frames")
        maps.append(_scaled(values, file) if is_alpha else values.astype(np.float32))
    return np.stack(maps)[..., None]


def _read_npz(path: Path) -> Clip:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no readable .npz file ({error}); expected one written by numpy.savez") from error
    if "rgb" not in arrays:
        raise UserError(f"{path} holds {sorted(arrays) or 'nothing'}; expected at least the array rgb [T,H,W,3]")
    if arrays["rgb"].ndim != 4 or arrays["rgb"].shape[-1] != 3 or 0 in arrays["rgb"].shape:
        raise UserError(f"rgb in {path} has the shape {arrays['rgb'].shape}; expected [T, H, W, 3]")
    maps = {}
    for key in ("depth", "alpha"):
        value = arrays.get(key)
        maps[key] = value[..., None] if value is not None and value.ndim == 3 else value
    reference = arrays.get("reference")
    references = [] if reference is None else list(reference if reference.ndim == 4 else reference[None])
    return Clip(
        rgb=_scaled(arrays["rgb"], path),
        depth=None if maps["depth"] is None else maps["depth"].astype(np.float32),
        alpha=None if maps["alpha"] is None else _scaled(maps["alpha"], path),
        references=[_scaled(image, path) for image in references],
        names=[f"{i:04d}" for i in range(len(arrays["rgb"]))],
    )


def _open(path: Path, mode: str | None) -> NDArray[np.generic]:
    """Pixels of an image file, in `mode` (None = as stored)."""
    try:
        with Image.open(path) as image:
            return np.asarray(image if mode is None else image.convert(mode))
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is no readable image ({error}); replace or remove it") from error


def _load_npy(path: Path) -> NDArray[np.generic]:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no readable .npy file ({error}); expected one written by numpy.save") from error


def _scaled(values: NDArray[np.generic], path: Path) -> Array:
    """Integers to [0, 1] by the range of their type; floats as they are."""
    if np.issubdtype(values.dtype, np.floating):
        return values.astype(np.float32)
    if values.dtype == np.int32:
        # Pillow hands 16-bit files over as int32 in some versions.
        return values.astype(np.float32) / 65535
    if values.dtype in (np.uint8, np.uint16):
        return values.astype(np.float32) / (255 if values.dtype == np.uint8 else 65535)
    if values.dtype == bool:
        return values.astype(np.float32)
    raise UserError(f"{path} holds numbers of type {values.dtype}; expected uint8, uint16 or floats in [0, 1]")


def _stacked(images: list[Array], files: list[Path]) -> Array:
    for image, file in zip(images, files, strict=True):
        if image.shape != images[0].shape:
            raise UserError(
                f"{file} has {image.shape[1]}x{image.shape[0]} pixels; expected "
                f"{images[0].shape[1]}x{images[0].shape[0]} like {files[0].name}"
            )
    return np.stack(images)
