"""SIFT features and their matches on the CPU through pycolmap, in small portions so that progress shows.

A portion that is in the database already is skipped by COLMAP, so every function here may be interrupted and called
again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from genfusion_ns.data.lazy_pycolmap import pycolmap

Advance = Callable[[int], Any]
"""Called with the number of items done since the last call."""
Pair = tuple[str, str]
"""Names of two images to match."""

_IMAGES_AT_ONCE = 4
_PAIRS_AT_ONCE = 64


@contextlib.contextmanager
def quiet_colmap(but_errors: bool = True) -> Iterator[None]:
    """Keep COLMAP's log to errors, or to what ends the process."""
    level = pycolmap.logging.minloglevel
    lowest = pycolmap.logging.Level.ERROR if but_errors else pycolmap.logging.Level.FATAL
    pycolmap.logging.minloglevel = int(lowest)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


def extract(
    database: Path,
    images: Path,
    names: Sequence[str],
    *,
    max_features: int,
    max_size: int,
    camera_model: str = "SIMPLE_RADIAL",
    shared_size: tuple[int, int] | None = None,
    threads: int = -1,
    advance: Advance = lambda done: None,
) -> None:
    """Write the SIFT features of `names` (relative to `images`) into `database`.

    Args:
        max_features: at most so many features per image, the strongest in scale.
        max_size: larger images are shrunk to this many pixels on the long side for the search.
        camera_model: COLMAP's camera model of all images.
        shared_size: width and height of all `names`, which then share one camera; None: each has its own.
        threads: CPU threads, -1 = all.
    """
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu, options.num_threads, options.max_image_size = False, threads, max_size
    options.sift.max_num_features = max_features
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = camera_model
    mode = pycolmap.CameraMode.SINGLE if shared_size else pycolmap.CameraMode.PER_IMAGE
    for start in range(0, len(names), _IMAGES_AT_ONCE):
        portion = list(names[start : start + _IMAGES_AT_ONCE])
        if shared_size:
            reader.existing_camera_id = _camera_of_size(database, shared_size)
        settings = {"camera_mode": mode, "reader_options": reader, "extraction_options": options}
        pycolmap.extract_features(database, images, image_names=portion, device=pycolmap.Device.cpu, **settings)
        advance(len(portion))


def match(
    database: Path,
    pairs: Sequence[Pair],
    work: Path,
    *,
    max_ratio: float,
    verify: bool,
    threads: int = -1,
    advance: Advance = lambda done: None,
) -> None:
    """Match the given pairs of images and write the matches into `database`.

    Args:
        work: a folder for the list of pairs.
        max_ratio: Lowe's ratio test, best over second-best distance.
        verify: also fit two-view geometry to each pair, as mapping needs it.
        threads: CPU threads, -1 = all.
    """
    options = pycolmap.FeatureMatchingOptions()
    options.use_gpu, options.num_threads = False, threads
    options.skip_geometric_verification = not verify
    options.sift.max_ratio = max_ratio
    listing = pycolmap.ImportedPairingOptions()
    listing.match_list_path = work / "pairs.txt"
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        portion = pairs[start : start + _PAIRS_AT_ONCE]
        (work / "pairs.txt").write_text("".join(f"{first} {second}\n" for first, second in portion))
        pycolmap.match_image_pairs(
            database, matching_options=options, pairing_options=listing, device=pycolmap.Device.cpu
        )
        advance(len(portion))


def _camera_of_size(database: Path, size: tuple[int, int]) -> int:
    """The id of the database's camera for images of this size, -1 where there is none yet."""
    with contextlib.closing(pycolmap.Database.open(database)) as found:
        cameras = found.read_all_cameras()
    return next((camera.camera_id for camera in cameras if (camera.width, camera.height) == size), -1)
