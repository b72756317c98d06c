"""Splits: files, every k-th view, evenly spread views."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genfusion_ns.data.split import every_kth_split, every_kth_trains, load_split, spread_split, view_distances
from genfusion_ns.errors import UserError

NAMES = [f"{i:02d}.jpg" for i in range(10)]


def write(folder: Path, n: int, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / f"train_test_split_{n}.json").write_text(text)


def test_every_eighth_is_held_out():
    split = every_kth_split(20, 8)
    assert split.test_ids == [0, 8, 16]
    assert split.train_ids == [i for i in range(20) if i not in (0, 8, 16)]


@given(count=st.integers(2, 60), k=st.integers(2, 70))
def test_tiny_scenes_keep_two_training_views_and_one_held_out(count, k):
    split = every_kth_split(count, k)
    assert len(split.train_ids) >= 2 and len(split.test_ids) >= 1
    assert set(split.train_ids) | set(split.test_ids) == set(range(count))
    assert bool(set(split.train_ids) & set(split.test_ids)) == (count == 2)


def test_one_view_is_refused():
    with pytest.raises(UserError, match=r"Found 1 usable photos.*at least 2"):
        every_kth_split(1, 8)
    with pytest.raises(UserError, match="interval 1"):
        every_kth_split(9, 1)


def test_split_file_is_read(tmp_path):
    write(tmp_path, 3, {"train_ids": [4, 1, 9], "test_ids": [0, 8]})
    split = load_split(tmp_path, 3, NAMES)
    assert split.train_ids == [4, 1, 9] and split.test_ids == [0, 8]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"train_ids": [1, 2, 10], "test_ids": [0]}, r"indices \[10\] lie outside 0 to 9"),
        ({"train_ids": [1, 2, -1], "test_ids": [0]}, r"indices \[-1\] lie outside"),
        ({"train_ids": [1, 2, 3], "test_ids": [0, 3]}, r"3 \(03.jpg\): both trained on and held out"),
        ({"train_ids": [1, 2, 2], "test_ids": [0]}, r"indices \[2\] are listed twice"),
        ({"train_ids": [1, 2], "test_ids": [0]}, "2 entries where the name says 3"),
        ({"train_ids": [1, 2, 3], "test_ids": []}, "test_ids is empty"),
        ({"train_ids": [1, 2, "3"], "test_ids": [0]}, "'3' is no whole number"),
        ({"train_ids": [1, 2, True], "test_ids": [0]}, "True is no whole number"),
        ({"train_ids": [1, 2, 3]}, "test_ids"),
        ([1, 2], "is not a split"),
        ("{", "is not a split"),
    ],
)
def test_bad_split_files_are_refused(tmp_path, content, words):
    write(tmp_path, 3, content)
    with pytest.raises(UserError, match=words):
        load_split(tmp_path, 3, NAMES)


def test_missing_split_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no train_test_split_6.json"):
        load_split(tmp_path, 6, NAMES)


def poses(positions: np.ndarray) -> np.ndarray:
    """Poses at [n, 3] that all look the same way."""
    c2w = np.tile(np.eye(4), (len(positions), 1, 1))
    c2w[:, :3, 3] = positions
    return c2w


def test_views_on_a_line_are_spread_along_it():
    c2w = poses(np.stack([np.arange(9.0), np.zeros(9), np.zeros(9)], axis=1))
    assert spread_split(c2w, 3, range(9)) == [1, 4, 7]


def test_viewing_direction_counts_where_positions_are_equal():
    c2w = np.tile(np.eye(4), (4, 1, 1))
    c2w[2:, :3, :3] = np.diag([-1.0, 1.0, -1.0])
    chosen = spread_split(c2w, 2, range(4))
    assert chosen[0] in (0, 1) and chosen[1] in (2, 3)


@given(seed=st.integers(0, 10_000), n=st.integers(2, 4))
def test_no_swap_of_one_view_is_better(seed, n):
    rng = np.random.default_rng(seed)
    c2w = poses(rng.normal(size=(9, 3)))
    candidates = [1, 2, 3, 4, 5, 6, 7, 8]
    chosen = spread_split(c2w, n, candidates)
    assert chosen == sorted(set(chosen)) and len(chosen) == n and set(chosen) <= set(candidates)
    distance = view_distances(c2w[candidates, :3, 3], c2w[candidates, :3, 2])

    def cost(ids) -> float:
        return distance[:, [candidates.index(i) for i in ids]].min(axis=1).sum()

    for ids in combinations(candidates, n):
        if len(set(ids) & set(chosen)) == n - 1:
            assert cost(ids) >= cost(chosen) - 1e-9


@pytest.mark.parametrize("n", [1, 10])
def test_impossible_numbers_of_views_are_refused(n):
    with pytest.raises(UserError, match=f"Asked for {n} training views; expected 2 to 9"):
        spread_split(poses(np.eye(9, 3)), n, range(9))


@pytest.mark.parametrize("scene", ["plush", "llff_fern", "fox"])
@pytest.mark.parametrize("n", [3, 6, 9])
def test_shared_splits_load(shared_scene, scene, n):
    folder = shared_scene(scene)
    names = sorted(path.name for path in (folder / "images").iterdir())
    split = load_split(folder, n, names)
    assert len(split.train_ids) == n and split.test_ids == list(range(0, len(names), 8))


# -- every k-th photo trains -----------------------------------------------------------------------------------------


def test_every_second_trains_and_all_others_are_held_out():
    split = every_kth_trains(7, 2)
    assert (split.train_ids, split.test_ids) == ([0, 2, 4, 6], [1, 3, 5])
    assert every_kth_trains(9, 4).train_ids == [0, 4, 8]
    for count, k in ((5, 1), (2, 2), (4, 4)):
        with pytest.raises(UserError, match="training"):
            every_kth_trains(count, k)
