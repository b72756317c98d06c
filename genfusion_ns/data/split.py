"""Which photos are trained on, and which are held out.

Indices always count the file-name-sorted list of all photos of the capture, the order of `transforms.json` as
Nerfstudio reads it and the order that `train_test_split_{n}.json` means.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genfusion_ns.data.views import FloatArray
from genfusion_ns.errors import UserError


@dataclass(frozen=True)
class Split:
    """Training and held-out photos, by index in the file-name-sorted list."""

    train_ids: list[int]
    test_ids: list[int]


def every_kth_split(count: int, k: int) -> Split:
    """Photos 0, k, 2k, … are held out, the others train; at least one is held out and at least two train.

    Of two photos both train, and the first is also the held-out one, because Nerfstudio's commands need one.

    Raises:
        UserError: fewer than two photos, or k < 2.
    """
    if count < 2:
        raise UserError(
            f"Found {count} usable photos; training needs at least 2, seen from different places. Add photos."
        )
    if k < 2:
        raise UserError(f"Found hold-out interval {k}; expected 2 or more, so that photos remain to train on.")
    if count == 2:
        return Split([0, 1], [0])
    test = list(range(0, count, k))[: count - 2]
    return Split([index for index in range(count) if index not in test], test)


def every_kth_trains(count: int, k: int) -> Split:
    """Photos 0, k, 2k, … train, all the others are held out: the masked protocol of GenFusion, whose 2 ("1/2 fps") and
    4 ("1/4 fps") thin a video. Raises UserError: k < 2, or fewer than two photos would train."""
    if k < 2:
        raise UserError(f"Found training interval {k}; expected 2 or more, so that photos remain to evaluate on.")
    train = list(range(0, count, k))
    if len(train) < 2:
        raise UserError(f"Every {k}th of {count} photos is {len(train)}; training needs at least 2. Ask for more.")
    return Split(train, [index for index in range(count) if index % k])


def load_split(scene: Path, n: int, names: Sequence[str]) -> Split:
    """Read `train_test_split_{n}.json` in `scene`; `names` are all photos of the capture, sorted by name. Raises
    UserError: no such file, not JSON, indices out of range, listed twice, or both trained on and held out."""
    path = Path(scene) / f"train_test_split_{n}.json"
    if not path.is_file():
        raise UserError(
            f"Found no {path.name} in {scene}. Expected a file with the lists train_ids and test_ids (indices "
            f"into the photos sorted by name). Write one, or let {n} evenly spread views be chosen."
        )
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
        train, test = ([_index(value) for value in lists[key]] for key in ("train_ids", "test_ids"))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path} is not a split ({type(error).__name__}: {error}). Expected {{"train_ids": [4, 17, 38], '
            '"test_ids": [0, 8, 16]}, whole numbers only. Mend or delete the file.'
        ) from error
    _check(train, test, n, names, path)
    return Split(train, test)


def spread_split(c2w: FloatArray, n: int, candidates: Sequence[int]) -> list[int]:
    """`n` of the candidate views, evenly spread: the k-medoids of camera position and viewing direction.

    The medoids start as a farthest-point sample and are improved by swaps until the summed distance of all candidates
    to their nearest medoid falls no more (Kaufman & Rousseeuw's PAM), so the result is deterministic.

    Args:
        c2w: [M, 3|4, 4] camera-to-world of all photos (OpenGL or OpenCV axes alike).
        n: how many to choose.
        candidates: indices of the photos that may train.

    Raises:
        UserError: n is not between 2 and the number of candidates.
    """
    if not 2 <= n <= len(candidates):
        raise UserError(
            f"Asked for {n} training views; expected 2 to {len(candidates)}, the photos that are not held out. "
            "Ask for another number, or add photos."
        )
    poses = np.asarray(c2w, dtype=np.float64)[list(candidates)]
    # Nerfstudio's cameras look along -z, which makes no difference to distances between directions.
    distance = view_distances(poses[:, :3, 3], poses[:, :3, 2])
    chosen = _swap_until_best(distance, _farthest_points(distance, n))
    return sorted(int(candidates[index]) for index in chosen)


def view_distances(centres: FloatArray, axes: FloatArray) -> FloatArray:
    """[V, V] distances between views in position and direction, from camera centres [V, 3] and unit axes [V, 3].

    A view is a point in R^6: its centre (relative to the mean, divided by the root-mean-square radius) and its axis.
    """
    position = centres - centres.mean(axis=0)
    radius = np.sqrt((position**2).sum(axis=1).mean())
    features = np.concatenate([position / max(radius, 1e-12), axes], axis=1)
    return np.linalg.norm(features[:, None] - features[None], axis=-1)


def _farthest_points(distance: FloatArray, n: int) -> list[int]:
    """Start at the medoid, then always the view that is farthest from those chosen."""
    chosen = [int(distance.sum(axis=1).argmin())]
    while len(chosen) < n:
        gap = distance[:, chosen].min(axis=1)
        gap[chosen] = -1.0
        chosen.append(int(gap.argmax()))
    return chosen


def _swap_until_best(distance: FloatArray, chosen: list[int]) -> list[int]:
    """Swap one medoid for the best other view while that lowers the summed distance."""
    chosen = list(chosen)
    cost = distance[:, chosen].min(axis=1).sum()
    while True:
        best = (cost - 1e-9, -1, -1)
        for place in range(len(chosen)):
            others = distance[:, chosen[:place] + chosen[place + 1 :]]
            rest = others.min(axis=1) if others.size else np.full(len(distance), np.inf)
            swapped = np.minimum(rest[:, None], distance).sum(axis=0)
            view = int(swapped.argmin())
            best = min(best, (float(swapped[view]), place, view))
        if best[1] < 0:
            return chosen
        cost, chosen[best[1]] = best[0], best[2]


def _index(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no whole number")
    return value


def _check(train: list[int], test: list[int], n: int, names: Sequence[str], path: Path) -> None:
    faults = []
    outside = sorted({index for index in train + test if not 0 <= index < len(names)})
    if outside:
        faults.append(f"indices {outside} lie outside 0 to {len(names) - 1} (the scene has {len(names)} photos)")
    both = sorted(set(train) & set(test) - set(outside))
    if both:
        faults.append(f"{', '.join(f'{i} ({names[i]})' for i in both)}: both trained on and held out")
    twice = sorted({index for ids in (train, test) for index in ids if ids.count(index) > 1})
    if twice:
        faults.append(f"indices {twice} are listed twice")
    if len(train) != n or n < 2:
        faults.append(f"train_ids has {len(train)} entries where the name says {n} (at least 2 are needed)")
    if not test:
        faults.append("test_ids is empty, so nothing could be evaluated")
    if faults:
        raise UserError(
            f"{path} does not fit this scene: {'; '.join(faults)}. Mend the file (indices count the photos "
            "sorted by name, from 0) or delete it to have evenly spread views chosen."
        )
