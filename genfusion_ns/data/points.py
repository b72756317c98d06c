"""Initial points: what the training views alone can tell about the scene.

A capture's sparse point cloud was triangulated with all photos, held-out ones included, so starting from it leaks
geometry that the training views don't have. The default therefore keeps only tracks that two or more training views
observe and triangulates them again from these views; as they are few, points sampled in the frusta complete them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genfusion_ns.cameras import invert_rigid
from genfusion_ns.data.colmap import ColmapModel, Tracks, similarity_between
from genfusion_ns.data.frustum import complete_with_frustum_samples
from genfusion_ns.data.matching import match_views
from genfusion_ns.data.triangulate import Triangulated, triangulate_tracks
from genfusion_ns.data.views import FloatArray, TrainView, find_by_name, inside, photo_colours, to_pixels, view_arrays
from genfusion_ns.errors import UserError

PointsMode = Literal["depth", "tracks", "official", "all", "random"]

FEW_TRACKS = 20
"""Below this many surviving tracks the log says so."""
SAME_WORLD = 0.01
"""Largest misfit between a model's cameras and the scene's, relative to their spread."""


@dataclass(frozen=True)
class InitialPoints:
    """Coloured points in the world of the training views."""

    xyz: NDArray[np.float32]
    """[P, 3] positions."""
    rgb: NDArray[np.uint8]
    """[P, 3] colours."""
    source: str
    """Where they come from, in words, for the log."""
    measured: int
    """How many of them (the first ones) are measured; the rest is sampled."""
    notes: list[str] = field(default_factory=list)
    """Warnings for the caller to log."""


def initial_points(
    views: Sequence[TrainView],
    model: ColmapModel | None,
    *,
    target: int,
    mode: PointsMode = "tracks",
    cloud: tuple[NDArray, NDArray] | None = None,
    seed: int = 0,
) -> InitialPoints:
    """Points to start from, in the world of `views`.

    Args:
        mode: "tracks" that two or more training views see, triangulated from these alone (features are matched where
            there is no model) and completed by samples in the frusta; "official": points of the model that a training
            view observes, where all photos put them; "all" points of the model, else of `cloud`; "random" samples.
        views: the training views; an observation counts if it lies inside the view's image, so cropped photos
            restrict tracks to their windows.
        model: the COLMAP model of the capture, in any world; None where there is none.
        target: how many points the modes `tracks` and `random` end up with; measured points are never dropped.
        cloud: [P, 3] positions in the views' world and [P, 3] uint8 colours, for `all` without a model.
        seed: seed of the sampling.

    Raises:
        UserError: the mode needs a model or cloud that is not there, or whose cameras are not those of the views.
    """
    if mode == "tracks":
        return _from_tracks(views, model, target, seed)
    if mode == "random":
        samples = complete_with_frustum_samples(views, np.zeros((0, 3)), None, target, seed)
        return _points(samples.xyz, samples.rgb, f"{target} samples in the frusta at random depths", 0)
    if mode == "all" and model is None and cloud is not None:
        return _points(cloud[0], cloud[1], f"all {len(cloud[0])} points of the scene's point cloud", len(cloud[0]))
    if model is None:
        raise UserError(
            f"Initial points of mode {mode!r} need the capture's COLMAP model; found none. Put it at sparse/0 in the "
            "scene, or use the mode 'tracks'."
        )
    return _from_model(views, model, mode)


def training_tracks(model: ColmapModel, views: Sequence[TrainView]) -> tuple[Tracks, list[str]]:
    """Observations inside the training photos (`image` counts `views`), and the names that the model lacks."""
    cameras = view_arrays(views)
    view_of_image = np.full(len(model.names), -1, dtype=np.int64)
    found = find_by_name(model.names, [view.name for view in views])
    for v, image in enumerate(found):
        if image is not None:
            view_of_image[image] = v
    seen = view_of_image[model.tracks.image]
    tracks = Tracks(model.tracks.point, seen, model.tracks.ray).where(seen >= 0)
    pixels = to_pixels(tracks.ray, cameras.K[tracks.image])
    unknown = [view.name for view, image in zip(views, found, strict=True) if image is None]
    return tracks.where(inside(pixels, cameras.size[tracks.image])), unknown


def track_colours(points: Triangulated, views: Sequence[TrainView]) -> FloatArray:
    """[P, 3] mean colours in [0, 255] of the photos where each point is observed."""
    K = view_arrays(views).K
    total, weight = np.zeros((len(points.xyz), 3)), np.zeros((len(points.xyz), 1))
    for v, view in enumerate(views):
        seen = points.tracks.image == v
        colours = photo_colours(view.image, to_pixels(points.tracks.ray[seen], K[v]))
        np.add.at(total, points.tracks.point[seen], colours)
        np.add.at(weight, points.tracks.point[seen], 1.0)
    return total / np.maximum(weight, 1.0)


def measured_points(views: Sequence[TrainView], model: ColmapModel | None) -> tuple[Triangulated, list[str], str]:
    """Points that the training views alone triangulate, warnings, and what kind of tracks they come from."""
    tracks, notes, origin = _find_tracks(views, model)
    available = int((tracks.views_per_point() >= 2).sum())
    found = triangulate_tracks(tracks, view_arrays(views).w2c)
    if available >= FEW_TRACKS and len(found.xyz) < available / 2:
        notes.append(
            f"only {len(found.xyz)} of {available} tracks agree with the cameras: the poses, the intrinsics or the "
            "lens distortion of the scene are probably not those that the photos were matched with."
        )
    return found, notes, origin


def _from_tracks(views: Sequence[TrainView], model: ColmapModel | None, target: int, seed: int) -> InitialPoints:
    found, notes, origin = measured_points(views, model)
    missing = max(target - len(found.xyz), 0)
    samples = complete_with_frustum_samples(views, found.xyz, found.tracks, missing, seed)
    if missing and len(found.xyz) < FEW_TRACKS:
        notes.append(
            f"only {len(found.xyz)} points could be measured from the {len(views)} training views; the depths of all "
            f"others are guessed{' from the cameras alone' if samples.blind_views else ''}."
        )
    source = f"{len(found.xyz)} {origin}, triangulated from the training views, and {missing} samples in their frusta"
    xyz = np.concatenate([found.xyz, samples.xyz])
    rgb = np.concatenate([track_colours(found, views), samples.rgb])
    return _points(xyz, rgb, source, len(found.xyz), notes)


def _find_tracks(views: Sequence[TrainView], model: ColmapModel | None) -> tuple[Tracks, list[str], str]:
    """Tracks between the training views, warnings, and what kind of tracks they are."""
    if model is None:
        return match_views(views), [], "matched features"
    tracks, unknown = training_tracks(model, views)
    if len(views) - len(unknown) >= 2:
        notes = [f"the COLMAP model has no image called {', '.join(unknown)}."] if unknown else []
        return tracks, notes, "COLMAP tracks"
    note = (
        f"the COLMAP model has images such as {model.names[:1]}, none called {', '.join(unknown)}; features are "
        "matched between the training photos instead."
    )
    return match_views(views), [note], "matched features"


def _from_model(views: Sequence[TrainView], model: ColmapModel, mode: PointsMode) -> InitialPoints:
    """Points of the whole capture's model, moved into the views' world."""
    images = find_by_name(model.names, [view.name for view in views])
    pairs = [(v, image) for v, image in enumerate(images) if image is not None]
    if len(pairs) < 2:
        raise UserError(
            f"Initial points of mode {mode!r}: found {len(pairs)} of the {len(views)} training photos in the COLMAP "
            f"model, expected 2 or more (the model has images such as {model.names[:1]}). Use the model of this "
            "capture, or the mode 'tracks'."
        )
    poses = np.stack([invert_rigid(views[v].camera.w2c.double().cpu()).numpy() for v, _ in pairs])
    scale, R, t, misfit = similarity_between(model.c2w[[image for _, image in pairs]], poses)
    if misfit > SAME_WORLD or scale <= 0:
        raise UserError(
            f"Initial points of mode {mode!r}: the COLMAP model's cameras differ from the scene's by {misfit:.1%} of "
            f"their spread, expected below {SAME_WORLD:.0%}. The model belongs to other poses; use the mode 'tracks'."
        )
    keep = np.arange(len(model.xyz))
    if mode == "official":
        keep = np.unique(training_tracks(model, views)[0].point)
    xyz = scale * model.xyz[keep] @ R.T + t
    what = "seen by a training view" if mode == "official" else "of the whole capture"
    source = f"{len(keep)} COLMAP points {what}, at positions from all photos (held-out ones too)"
    return _points(xyz, model.rgb[keep], source, len(keep))


def _points(xyz: NDArray, rgb: NDArray, source: str, measured: int, notes: list[str] | None = None) -> InitialPoints:
    colours = np.clip(np.rint(np.asarray(rgb, dtype=np.float64)), 0, 255).astype(np.uint8)
    return InitialPoints(np.asarray(xyz, dtype=np.float32), colours, source, measured, notes or [])
