"""Validation at the door: everything that is wrong with a scene, found before training and said in one message.

Faults of single photos (missing, truncated, 16-bit, of the wrong size) are skipped while they are few. Faults of poses
and intrinsics are never skipped: they mean that the tool that wrote them, or the conversion, went wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genfusion_ns.data.photos import PhotoCheck, check_photos, with_mask
from genfusion_ns.data.views import FloatArray, IntArray
from genfusion_ns.errors import UserError

ORTHONORMAL_TOLERANCE = 1e-3
"""Largest entry of R^T R - 1 that passes; float32 files stay below 1e-6, six-digit text files below 1e-5."""
SAME_POSE_TOLERANCE = 1e-7
"""Poses that differ by less (rotation entries; positions relative to the scene) are called identical."""
FOCAL_RANGE = (0.05, 1000.0)
"""Focal lengths in longest sides of a photo: fields of view from 169 degrees to 3 arc minutes."""


KEPT_SHARE = 0.95
"""Broken photos are skipped while at least this share of the photos remains."""

Faults = dict[str, list[str]]
"""By kind (`_KINDS`), each offender with the value found."""

_KINDS = {
    "missing": ("Photos must exist", "restore the files, or drop their frames from transforms.json"),
    "unreadable": ("Photos must be complete, readable images", "copy or export them again, or drop their frames"),
    "deep": (
        "Photos must have 8 bits per channel",
        "convert them, for instance with ImageMagick: magick mogrify -depth 8 -type TrueColor images/*.png",
    ),
    "rotated": (
        "Photos must be stored upright for their intrinsics, not turned by an EXIF tag",
        "bake the rotation in (magick mogrify -auto-orient images/*.jpg), or pose the photos again with "
        "genfusion-prepare, which does it",
    ),
    "size": (
        "Photos must have the size that their intrinsics are for (they are never resized to another aspect)",
        "give the photos that the poses were made from, or set w, h, fl_x, fl_y, cx, cy for these",
    ),
    "mask missing": ("Masks must exist for all photos or for none", "restore the masks, or drop all mask_path entries"),
    "mask unreadable": (
        "Masks must be readable images with one channel",
        "export them again as 8-bit grey PNG, white = trained on",
    ),
    "mask size": (
        "Masks must have the size of their photos",
        "export them again at that size (for photos of images_2: in masks_2)",
    ),
    "mask black": (
        "Masks must leave something to train on (white = trained on, black = ignored)",
        "invert the masks if black and white are swapped, or drop these frames",
    ),
    "not finite": ("Poses and intrinsics must be finite numbers", "drop these frames or export the poses again"),
    "skewed": (
        "The rotation of a pose must be orthonormal (no scale, no shear)",
        "divide the rotation's columns by their lengths, or export the poses again",
    ),
    "mirrored": (
        "The rotation of a pose must be right-handed (det R = +1)",
        "the poses were mirrored on the way, usually by negating one axis: negate two, or swap an axis back",
    ),
    "focal": ("Focal lengths must be positive, in pixels", "write the calibrated fl_x and fl_y into transforms.json"),
    "lens": (
        f"Focal lengths must be {FOCAL_RANGE[0]:g} to {FOCAL_RANGE[1]:g} of a photo's longest sides, in pixels",
        "write the calibrated fl_x and fl_y into transforms.json (in pixels, not millimetres)",
    ),
    "distortion": (
        "Lens distortion must be finite numbers",
        "calibrate again, or leave the coefficients out for photos without distortion",
    ),
    "same pose": (
        "Two photos can't share one pose",
        "drop duplicates; frames that were never registered often carry a placeholder pose and must go too",
    ),
    "one place": (
        "Photos must be taken from different places",
        "a turn on the spot tells no depth: take photos while you walk, and pose them again",
    ),
    "too few": ("More photos from different places are needed", "add photos"),
}
"""What was expected, and what to do."""


@dataclass
class SceneReport:
    """What `validate_scene` found in a scene that can be used."""

    keep: list[int]
    """Indices of the views to use."""
    notes: list[str]
    """Warnings, one per line, for the caller to log."""


def validate_scene(
    image_paths: Sequence[Path],
    c2w: FloatArray,
    K: FloatArray,
    widths: IntArray,
    heights: IntArray,
    *,
    masks: Sequence[Path] | None = None,
    distortion: Sequence[Sequence[float]] | FloatArray | None = None,
    minimum: int = 2,
    scene: str = "The scene",
) -> SceneReport:
    """Check photos, poses and intrinsics of M views; list every offender once.

    Args:
        image_paths: M image files.
        c2w: [M, 3|4, 4] camera-to-world, OpenGL or OpenCV axes.
        K: [M, 3, 3] intrinsics in pixels.
        widths, heights: [M] sizes in pixels of the images for which `K` holds.
        masks: M mask files, 0 = not trained on.
        distortion: M lists of the lens's coefficients.
        minimum: usable views needed; two to train on, one to evaluate on.
        scene: what to call the scene in messages.

    Raises:
        UserError: too many broken photos, or any broken pose or intrinsics, or fewer than `minimum` views.
    """
    names = _short_names(image_paths)
    sizes = [(int(width), int(height)) for width, height in zip(widths, heights, strict=True)]
    checks = check_photos(image_paths, sizes)
    if masks:
        checks = [with_mask(check, Path(mask), size) for check, mask, size in zip(checks, masks, sizes, strict=True)]
    keep = [index for index, check in enumerate(checks) if check.fault is None]
    photos = _photo_faults(names, checks)
    faults = _camera_faults(names, c2w, K, np.array(sizes, dtype=np.float64).reshape(-1, 2), distortion)
    if len(keep) < KEPT_SHARE * len(names) - 1e-9:
        faults = photos | faults
    if len(names) < minimum or (not faults and len(keep) < minimum):
        faults |= _too_few(len(keep), len(names), minimum)
    _raise_faults(scene, faults)
    return SceneReport(keep, _notes(names, checks, photos))


def validate_cameras(
    image_paths: Sequence[Path],
    c2w: FloatArray,
    K: FloatArray,
    *,
    sizes: FloatArray | None,
    distortion: Sequence[Sequence[float]],
    scene: str,
) -> None:
    """Check the poses and intrinsics of all photos alone, as the files have them (`sizes` [M, 2] are widths and
    heights; see `validate_scene` for the other arguments).

    To be called before a parser centres and scales the world, which turns one NaN, or poses that are all the same,
    into NaN everywhere.

    Raises:
        UserError: every broken pose and intrinsics; a single photo, or photos that were all taken from one place.
    """
    names = _short_names(image_paths)
    faults = _camera_faults(names, c2w, K, sizes, distortion)
    centres = c2w[:, :3, 3]
    if len(names) < 2:
        faults |= _too_few(len(names), len(names), 2)
    elif not faults and bool((np.ptp(centres, axis=0) == 0).all()):
        place = ", ".join(f"{value:.6g}" for value in centres[0])
        faults["one place"] = [f"all {len(names)} cameras are at ({place})"]
    _raise_faults(scene, faults)


def missing_scene_error(folder: Path, searched: Sequence[Path]) -> UserError:
    """The error for a user's folder in which there is neither a `transforms.json` nor a COLMAP model, the files and
    folders that were `searched` for."""
    places = ", ".join(str(path) for path in searched)
    what = "holds no posed photos" if Path(folder).is_dir() else "is not a folder"
    return UserError(
        f"{folder} {what}: expected one of {places}. To pose a folder of photos, run "
        "`genfusion-prepare --images PHOTOS --output SCENE` (needs nothing else), or Nerfstudio's "
        "`ns-process-data images --data PHOTOS --output-dir SCENE` (needs COLMAP and ffmpeg); then pass --data SCENE."
    )


def _raise_faults(scene: str, faults: Faults) -> None:
    if faults:
        count = sum(map(len, faults.values()))
        head = f"{scene} can't be used as it is; {count} problem{'s were' if count > 1 else ' was'} found."
        raise UserError("\n".join([head, *(_text(kind, lines) for kind, lines in faults.items())]))


def _text(kind: str, lines: list[str]) -> str:
    title, advice = _KINDS[kind]
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines), f"  -> {advice}"])


def _camera_faults(
    names: list[str],
    poses: FloatArray,
    K: FloatArray,
    sizes: FloatArray | None,
    distortion: Sequence[Sequence[float]] | FloatArray | None,
) -> Faults:
    """Faults of poses and intrinsics; a view with NaN or Inf is listed for that alone."""
    numbers = np.concatenate([poses[:, :3].reshape(-1, 12), K.reshape(-1, 9)], axis=1)
    finite = np.isfinite(numbers).all(axis=1)
    rotation = np.where(finite[:, None, None], poses[:, :3, :3], np.eye(3))
    error = np.abs(rotation.transpose(0, 2, 1) @ rotation - np.eye(3)).max(axis=(1, 2))
    determinant = np.linalg.det(rotation)
    focal = np.where(finite[:, None], K[:, [0, 1], [0, 1]], np.nan)
    skewed = error > ORTHONORMAL_TOLERANCE
    faults: Faults = {
        "not finite": [f"{names[i]}: {_first_bad(poses[i], K[i])}" for i in np.flatnonzero(~finite)],
        "skewed": [
            f"{names[i]}: R^T R is off from 1 by {error[i]:.3g}, det R = {determinant[i]:.4g}"
            for i in np.flatnonzero(skewed)
        ],
        "mirrored": [f"{names[i]}: det R = {determinant[i]:.4g}" for i in np.flatnonzero(~skewed & (determinant < 0))],
        "focal": [
            f"{names[i]}: fx = {focal[i, 0]:g}, fy = {focal[i, 1]:g}" for i in np.flatnonzero((focal <= 0).any(axis=1))
        ],
        "lens": [] if sizes is None else _lens_faults(names, focal, sizes),
        "distortion": []
        if distortion is None
        else [f"{n}: {list(d)}" for n, d in zip(names, distortion, strict=True) if not np.isfinite(d).all()],
        "same pose": _identical(names, poses, np.flatnonzero(finite)),
    }
    return {kind: lines for kind, lines in faults.items() if lines}


def _lens_faults(names: list[str], focal: FloatArray, sizes: FloatArray) -> list[str]:
    """Focal lengths [M, 2] that no lens has for photos of these sizes [M, 2]."""
    share = focal / np.maximum(sizes.max(axis=1, keepdims=True), 1.0)
    # comparisons with NaN are false: that view is listed already
    wrong = (focal > 0).all(axis=1) & ((share < FOCAL_RANGE[0]) | (share > FOCAL_RANGE[1])).any(axis=1)
    return [
        f"{names[i]}: fx = {focal[i, 0]:g}, fy = {focal[i, 1]:g} for {sizes[i, 0]:g} x {sizes[i, 1]:g} pixels"
        for i in np.flatnonzero(wrong)
    ]


def _identical(names: list[str], poses: FloatArray, candidates: IntArray) -> list[str]:
    """One line per set of views with the same pose."""
    if len(candidates) < 2:
        return []
    position = poses[candidates, :3, 3]
    spread = float(np.linalg.norm(position - position.mean(axis=0), axis=1).max())
    extent = max(spread, 1e-12, 1e-12 * float(np.abs(position).max()))
    key = np.concatenate([poses[candidates, :3, :3].reshape(-1, 9), position / extent], axis=1)
    _, first, member = np.unique(
        np.round(key / SAME_POSE_TOLERANCE).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    lines = []
    for group in np.argsort(first):
        views = candidates[np.flatnonzero(member.reshape(-1) == group)]
        if len(views) > 1:
            place = ", ".join(f"{value:.4g}" for value in poses[views[0], :3, 3])
            lines.append(f"{', '.join(names[i] for i in views)}: all at ({place}) with the same rotation")
    return lines


def _photo_faults(names: list[str], checks: list[PhotoCheck]) -> Faults:
    faults: Faults = {}
    for name, check in zip(names, checks, strict=True):
        if check.fault is not None:
            faults.setdefault(check.fault, []).append(f"{name}: {check.found}")
    return faults


def _too_few(usable: int, listed: int, minimum: int) -> Faults:
    return {"too few": [f"found {usable} usable of {listed} listed; at least {minimum} are needed"]}


def _notes(names: list[str], checks: list[PhotoCheck], skipped: Faults) -> list[str]:
    notes = [f"skipping {len(lines)} of {len(names)} photos. {_text(kind, lines)}" for kind, lines in skipped.items()]
    alpha = [name for name, check in zip(names, checks, strict=True) if check.has_alpha]
    if alpha:
        notes.append(
            f"{_some(alpha)}: found an alpha channel; transparent parts are blended with the background colour."
        )
    turned = [name for name, check in zip(names, checks, strict=True) if check.fault is None and check.orientation != 1]
    if turned:
        notes.append(
            f"{_some(turned)}: found an EXIF orientation tag. Pixels are used as they are stored, which is right if "
            "the poses were made from the stored pixels; if training fails, bake the rotation in and pose them again."
        )
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _first_bad(pose: FloatArray, K: FloatArray) -> str:
    for what, matrix in (("pose", pose), ("intrinsics", K)):
        bad = np.argwhere(~np.isfinite(matrix))
        if len(bad):
            row, column = bad[0]
            return f"{what} entry [{row}, {column}] is {matrix[row, column]}"
    return ""


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Paths without the folders that all of them share but the last."""
    if len({path.parent for path in paths}) == 1:
        return [f"{path.parent.name}/{path.name}" for path in paths]
    return [str(path) for path in paths]
