"""Tracks between training photos of known poses, for scenes that bring no COLMAP model.

The poses replace COLMAP's geometric verification: a match must triangulate to a point in front of both cameras. So
few false matches pass that the ratio test may be lax.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from genfusion_ns.data.colmap import Tracks
from genfusion_ns.data.features import extract, match, quiet_colmap
from genfusion_ns.data.lazy_pycolmap import pycolmap
from genfusion_ns.data.split import view_distances
from genfusion_ns.data.triangulate import triangulate_tracks
from genfusion_ns.data.views import FloatArray, IntArray, TrainView, ViewArrays, to_rays, view_arrays

MAX_RATIO = 0.9
"""Ratio test of SIFT matches; against 0.8 it finds 1.2 to 1.8 times as many correct points on the test scenes."""
MAX_FEATURES = 8192
MAX_SIZE = 1600
ALL_PAIRS_UP_TO = 12
"""More views than this are matched with their nearest views only."""
NEAREST_VIEWS = 8
CHANCE = 0.05
"""Share of false matches that agree with the poses by chance: 4 % were measured between views with no overlap."""
MIN_MATCHES = 8

_NO_TRACKS = Tracks(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))


def match_views(views: Sequence[TrainView], threads: int = -1) -> Tracks:
    """Tracks of SIFT features between `views`; `image` counts `views`. Empty where nothing matches.

    A pair of views counts only if its matches agree with the poses three times as often as chance explains. `threads`
    are the CPU's, -1 = all.
    """
    cameras = view_arrays(views)
    pairs = _pairs(cameras)
    keypoints, matches = _match(views, pairs, threads)
    rays = [to_rays(pixels, K) for pixels, K in zip(keypoints, cameras.K, strict=True)]
    good = {pair: _agreeing(pair, found, rays, cameras.w2c) for pair, found in matches.items()}
    return _link(good, rays)


def _pairs(cameras: ViewArrays) -> list[tuple[int, int]]:
    """All pairs of few views, else each view with its nearest in position and direction."""
    count = len(cameras.w2c)
    if count <= ALL_PAIRS_UP_TO:
        return list(combinations(range(count), 2))
    near = np.argsort(view_distances(cameras.centres, cameras.axes), axis=1, kind="stable")
    chosen = {(min(v, int(u)), max(v, int(u))) for v in range(count) for u in near[v, : NEAREST_VIEWS + 1] if u != v}
    return sorted(chosen)


def _match(
    views: Sequence[TrainView], pairs: list[tuple[int, int]], threads: int
) -> tuple[list[FloatArray], dict[tuple[int, int], IntArray]]:
    """Keypoints [n, 2] of each view in pixels, and for each pair indices [m, 2] into them."""
    names = [f"{v:05d}.png" for v in range(len(views))]
    with tempfile.TemporaryDirectory(prefix="genfusion-") as folder, quiet_colmap():
        work, database = Path(folder), Path(folder) / "database.db"
        for name, view in zip(names, views, strict=True):
            Image.fromarray(view.image).save(work / name, compress_level=1)
        extract(database, work, names, max_features=MAX_FEATURES, max_size=MAX_SIZE, threads=threads)
        listed = [(names[a], names[b]) for a, b in pairs]
        match(database, listed, work, max_ratio=MAX_RATIO, verify=False, threads=threads)
        with contextlib.closing(pycolmap.Database.open(database)) as found:
            id_of = {image.name: image.image_id for image in found.read_all_images()}
            ids = [id_of[name] for name in names]
            keypoints = [found.read_keypoints(i)[:, :2].astype(np.float64) for i in ids]
            matches = {
                (a, b): found.read_matches(ids[a], ids[b]).astype(np.int64).reshape(-1, 2)
                for a, b in pairs
                if found.exists_matches(ids[a], ids[b])
            }
    return keypoints, matches


def _agreeing(pair: tuple[int, int], matches: IntArray, rays: list[FloatArray], w2c: FloatArray) -> IntArray:
    """Those of the matches [m, 2] of a pair that the poses confirm; none where chance may explain them."""
    tracks = Tracks(
        point=np.tile(np.arange(len(matches)), 2),
        image=np.repeat(np.array(pair), len(matches)),
        ray=np.concatenate([rays[view][matches[:, side]] for side, view in enumerate(pair)]),
    )
    # Small angles are welcome here: a narrow pair may link wide ones.
    confirmed = triangulate_tracks(tracks, w2c, min_angle=0.0).origin
    enough = len(confirmed) >= max(MIN_MATCHES, 3 * CHANCE * len(matches))
    return matches[confirmed] if enough else matches[:0]


def _link(matches: dict[tuple[int, int], IntArray], rays: list[FloatArray]) -> Tracks:
    """Join pairwise matches to tracks: features that are linked by any chain of matches show one point."""
    first = np.cumsum([0] + [len(ray) for ray in rays])
    links = [found + first[list(pair)] for pair, found in matches.items() if len(found)]
    if not links:
        return _NO_TRACKS
    ends = np.concatenate(links)
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(first[-1], first[-1]))
    _, label = connected_components(graph, directed=False)
    features = np.unique(ends)
    _, point = np.unique(label[features], return_inverse=True)
    image = np.searchsorted(first, features, side="right") - 1
    return Tracks(point.reshape(-1), image, np.concatenate(rays)[features])
