"""From a folder of photos to a Nerfstudio scene, with COLMAP in-process and on the CPU.

Stages: copy the photos (upright, bounded size), find SIFT features, match them, map (poses and sparse points), remove
lens distortion, write the scene. Intermediate results lie in `.prepare` inside the scene.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import ClassVar, Literal

from rich.progress import Progress

from genfusion_ns.bounds import COUNT, NATURAL, Bound, Bounds, check_bounds
from genfusion_ns.data.features import extract, match, quiet_colmap
from genfusion_ns.data.lazy_pycolmap import pycolmap
from genfusion_ns.data.photo_copies import PhotoList, copy_photos, fingerprint, list_photos
from genfusion_ns.data.scene_files import PLY_NAME, write_scene_files
from genfusion_ns.data.stages import Stages, delete
from genfusion_ns.errors import UserError
from genfusion_ns.files import locked, write_errors

WORK_FOLDER = ".prepare"
EXHAUSTIVE_UP_TO = 200
"""More photos than this are matched in sequence by `auto`; all pairs of 200 are 19,900."""
FEATURE_BYTES = 320
"""A SIFT feature, its place and its matches in the database, and once more in the log that is written first."""
MIN_MATCHES = 15
"""COLMAP uses pairs of photos with this many matches (its default)."""
_log = logging.getLogger(__name__)


@dataclass
class PrepareConfig:
    """Turn a folder of photos into a scene that ns-train reads: poses, sparse points and undistorted images."""

    images: Path
    """Folder with your photos (JPEG, PNG, TIFF, WebP; subfolders count too); it is only read."""
    output: Path
    """Folder for the scene; a second run with the same photos continues where the first one stopped."""
    matching: Literal["auto", "exhaustive", "sequential"] = "auto"
    """Which pairs of photos are compared: all (exhaustive), or neighbours in file-name order (sequential, for video
    frames); auto takes all pairs for up to 200 photos."""
    overlap: int = 10
    """Sequential matching compares each photo with this many that follow it, and with a few farther ones."""
    camera_model: Literal["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"] = (
        "SIMPLE_RADIAL"
    )
    """COLMAP's lens model: SIMPLE_RADIAL (COLMAP's default) is the safest for few photos, OPENCV fits wide lenses
    better, OPENCV_FISHEYE is for fisheyes. The scene itself comes out without distortion."""
    one_camera: bool = True
    """Photos of equal size come from one camera with one zoom, which makes the calibration firmer; say no if lenses or
    zooms differ."""
    max_size: int = 1600
    """Larger photos are shrunk to this many pixels on the long side (Nerfstudio itself shrinks beyond 1600); 0 = keep
    their size."""
    max_features: int = 8192
    """SIFT features per photo (COLMAP's default): fewer is faster, more helps where photos overlap little."""
    threads: int = -1
    """CPU threads, -1 = all."""

    BOUNDS: ClassVar[Bounds] = {"overlap": COUNT, "max_size": NATURAL, "max_features": Bound(100), "threads": Bound(-1)}


@dataclass(frozen=True)
class Prepared:
    """What came out."""

    scene: Path
    registered: int
    """Photos with a pose."""
    photos: int
    """Photos that were tried."""
    points: int
    """Sparse points."""
    notes: list[str]
    """Warnings."""
    skipped: list[str]
    """Stages that an earlier run had done."""


def prepare(config: PrepareConfig, progress: Progress) -> Prepared:
    """Run all stages, or those that are missing. Raises UserError: too few or broken photos, an output folder with
    someone else's images or in use by another process, a full disk, or photos that can't be registered to each
    other."""
    check_bounds(config, "--")
    photos = list_photos(config.images)
    _check_output(config, photos)
    work = config.output / WORK_FOLDER
    with write_errors(config.output, "What was done is kept; make room, and run the same command again to go on."):
        work.mkdir(parents=True, exist_ok=True)
        with locked(work, "Wait until it has ended, or give another --output."):
            return _prepare(config, photos, work, progress)


def _prepare(config: PrepareConfig, photos: PhotoList, work: Path, progress: Progress) -> Prepared:
    """The stages, in a folder that no other process works in."""
    run = _Run(config, photos, work, progress)
    stages = Stages(work)
    lens = {key: getattr(config, key) for key in ("camera_model", "one_camera", "max_features")}
    scene = [config.output / name for name in ("images", "sparse", "transforms.json", PLY_NAME)]
    with quiet_colmap():
        sizes = stages.run("photos", [fingerprint(photos), config.max_size], run.copy, [run.copies])
        stages.run("features", lens, lambda: run.features(sizes), [run.database])
        stages.run("matches", [config.matching, config.overlap], run.matches, [run.database], run.forget_matches)
        unregistered = stages.run("mapping", None, run.mapping, [run.model])
        points = stages.run("scene", None, run.scene, scene)
    notes = photos.notes + ([_unregistered_note(unregistered, photos)] if unregistered else [])
    count = len(photos.names)
    return Prepared(config.output, count - len(unregistered), count, points, notes, stages.skipped)


class _Run:
    """The work of the single stages."""

    def __init__(self, config: PrepareConfig, photos: PhotoList, work: Path, progress: Progress) -> None:
        self.config, self.photos, self.work, self.progress = config, photos, work, progress
        self.copies, self.database, self.model = work / "photos", work / "database.db", work / "model"

    def forget_matches(self) -> None:
        with pycolmap.Database.open(self.database) as database:
            database.clear_matches()
            database.clear_two_view_geometries()

    def copy(self) -> list[tuple[int, int]]:
        advance = self._bar("copying photos", len(self.photos.names))
        return copy_photos(self.photos, self.copies, self.config.max_size, advance)

    def features(self, sizes: list[tuple[int, int]]) -> None:
        check_room(self.work, len(self.photos.names) * self.config.max_features * FEATURE_BYTES)
        advance = self._bar("finding features", len(self.photos.names))
        for size in sorted({tuple(size) for size in sizes}):
            extract(
                self.database,
                self.copies,
                [name for name, own in zip(self.photos.names, sizes, strict=True) if tuple(own) == size],
                max_features=self.config.max_features,
                max_size=-1,
                camera_model=self.config.camera_model,
                shared_size=(size[0], size[1]) if self.config.one_camera else None,
                threads=self.config.threads,
                advance=advance,
            )

    def matches(self) -> None:
        pairs, threads = self._pairs(), self.config.threads
        advance = self._bar("matching pairs", len(pairs))
        match(self.database, pairs, self.work, max_ratio=0.8, verify=True, threads=threads, advance=advance)

    def mapping(self) -> list[str]:
        """Map, keep the model with most photos, and return the names of the photos that it lacks."""
        count = len(self.photos.names)
        models = self._map(lax=False)
        # The strict thresholds give better poses; the lax ones are for captures in which few photos overlap.
        if max((model.num_reg_images() for model in models), default=0) < 0.5 * count:
            models += self._map(lax=True)
        best = max(models, key=lambda model: model.num_reg_images(), default=None)
        if best is None or best.num_reg_images() < 2:
            raise self._mapping_failed()
        partial = self.work / "model.partial"
        delete([partial, self.model])
        partial.mkdir()
        try:
            best.write(partial)
            os.replace(partial, self.model)
        finally:
            delete([partial])
        registered = {best.images[i].name for i in best.reg_image_ids()}
        return sorted(set(self.photos.names) - registered)

    def _map(self, lax: bool) -> list[pycolmap.Reconstruction]:
        """All models that COLMAP makes of the photos."""
        advance = self._bar("finding poses", len(self.photos.names))
        models = self.work / "sparse"
        delete([models])
        models.mkdir()
        # That no model was found is for the caller to say.
        with quiet_colmap(but_errors=False):
            found = pycolmap.incremental_mapping(
                self.database,
                self.copies,
                models,
                _mapping_options(self.config, lax),
                initial_image_pair_callback=lambda: advance(2),
                next_image_callback=lambda: advance(1),
            )
        return list(found.values())

    def scene(self) -> int:
        """Undistort and write the scene; returns the number of points."""
        advance = self._bar("removing distortion", 1)
        check_room(self.work, 2 * sum(path.stat().st_size for path in self.copies.iterdir()))
        flat = self.work / "flat"
        delete([flat])
        threads, output = self.config.threads, self.config.output
        pycolmap.undistort_images(flat, self.model, self.copies, jpeg_quality=95, num_threads=threads)
        reconstruction = pycolmap.Reconstruction(str(flat / "sparse"))
        delete([output / "images", output / "sparse"])
        os.replace(flat / "images", output / "images")
        (output / "sparse").mkdir()
        os.replace(flat / "sparse", output / "sparse" / "0")
        write_scene_files(reconstruction, output)
        delete([flat])
        advance(1)
        return reconstruction.num_points3D()

    def _pairs(self) -> list[tuple[str, str]]:
        names = self.photos.names
        automatic = self.config.matching == "auto"
        if self.config.matching == "exhaustive" or (automatic and len(names) <= EXHAUSTIVE_UP_TO):
            return list(combinations(names, 2))
        if automatic:
            _log.warning(
                "%d photos are matched with their neighbours in file-name order only; if they are not in the order in "
                "which they were taken, pass --matching exhaustive (slow).",
                len(names),
            )
        # Powers of two close the loop over longer gaps at little cost.
        gaps = set(range(1, self.config.overlap + 1)) | {2**k for k in range(self.config.overlap.bit_length() + 4)}
        return [(names[i], names[i + gap]) for gap in sorted(gaps) for i in range(len(names) - gap)]

    def _mapping_failed(self) -> UserError:
        with pycolmap.Database.open(self.database) as database:
            matched = sum(len(found) >= MIN_MATCHES for found in database.read_all_matches()[1])
            verified = sum(count >= MIN_MATCHES for count in database.read_two_view_geometry_num_inliers()[1])
        return UserError(
            f"COLMAP could not pose the photos in {self.config.images}: 0 of {len(self.photos.names)} were registered; "
            f"{matched} pairs of photos have {MIN_MATCHES} matching features or more, {verified} agree on a geometry. "
            "Expected photos of one still scene with texture, each overlapping its neighbours by 60 % or more, taken "
            "from different places (not turning on the spot). Try more photos between the present ones, --matching "
            "exhaustive, --max-features 16384, or --no-one-camera if lenses or zooms differ."
        )

    def _bar(self, what: str, total: int) -> Callable[[int], None]:
        """A new progress bar: call it with the number of steps that were done."""
        bar = self.progress.add_task(what, total=total)
        return lambda steps: self.progress.advance(bar, steps)


def check_room(folder: Path, need: int) -> None:
    """COLMAP ends the whole process where its database meets a full disk, and leaves images out without an error.
    Raises UserError: less is free on the folder's disk than the `need` bytes that a stage may write."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"{folder} lies on a disk with {free / 2**20:,.0f} MiB free; the next stage may write {need / 2**20:,.0f} "
            "MiB. Make room, and run the same command again to go on (--max-features lowers what features take)."
        )


def _mapping_options(config: PrepareConfig, lax: bool) -> pycolmap.IncrementalPipelineOptions:
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = config.threads
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = 0
    if lax:
        options.min_num_matches = 10
        options.min_model_size = 2
        options.mapper.init_min_num_inliers = 30
        options.mapper.init_min_tri_angle = 4.0
        options.mapper.abs_pose_min_num_inliers = 15
        options.triangulation.ignore_two_view_tracks = False
    return options


def _check_output(config: PrepareConfig, photos: PhotoList) -> None:
    """Never overwrite images that an earlier run of this program did not make."""
    target = (config.output / "images").resolve()
    if any(path.resolve().is_relative_to(target) for path in photos.paths):
        raise UserError(
            f"The photos lie in {target}, which the scene's own images would replace. Give another folder as --output."
        )
    if target.exists() and not (config.output / WORK_FOLDER).is_dir():
        raise UserError(
            f"{config.output} has an images folder that genfusion-prepare did not make. Give a new folder as --output."
        )


def _unregistered_note(names: list[str], photos: PhotoList) -> str:
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return (
        f"{len(names)} of {len(photos.names)} photos got no pose and are left out: {shown}. Blurred photos and photos "
        "without overlap are the usual reasons; photos taken in between help."
    )
