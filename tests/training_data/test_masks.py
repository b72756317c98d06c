"""Masks: their areas, and that they follow from their arguments alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genfusion_ns.training_data.masks import corner_masks, moving_masks, polygon_masks, window_masks
from genfusion_ns.training_data.variants import Variant, draw_variant

seeds = st.integers(0, 2**31 - 1)
even_sizes = st.tuples(st.integers(8, 90), st.integers(8, 60)).map(lambda size: (2 * size[0], 2 * size[1]))
sizes = st.tuples(st.integers(24, 170), st.integers(24, 120))


def boxes(masks: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Top, bottom, left and right of each mask, which must be a filled rectangle."""
    found = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        assert mask.sum() == (box[1] - box[0]) * (box[3] - box[2])
        found.append(box)
    return found


@settings(deadline=None, max_examples=30)
@given(seeds, even_sizes)
def test_corners_show_exactly_a_quarter_in_one_corner_of_all_frames(seed, size):
    width, height = size
    masks = corner_masks(seed, 4, width, height)
    assert masks.shape == (4, height, width) and masks.mean() == 0.25
    (top, bottom, left, right), *others = boxes(masks)
    assert all(other == (top, bottom, left, right) for other in others)
    assert (top == 0) != (bottom == height) and (left == 0) != (right == width)


def test_all_four_corners_occur():
    assert len({boxes(corner_masks(seed, 1, 8, 8))[0] for seed in range(40)}) == 4


@settings(deadline=None, max_examples=30)
@given(seeds, sizes, st.sampled_from([0.1, 0.5]))
def test_windows_show_their_share_at_one_place(seed, size, share):
    width, height = size
    masks = window_masks(seed, 3, width, height, share)
    assert len(set(boxes(masks))) == 1
    # both sides are rounded by half a pixel at most
    slack = 0.5 * np.sqrt(share) * (1 / width + 1 / height) + 0.25 / (width * height)
    assert abs(masks[0].mean() - share) <= slack + 1e-9


@settings(deadline=None, max_examples=30)
@given(seeds, even_sizes, st.integers(2, 40))
def test_moving_windows_show_a_quarter_and_move_smoothly(seed, size, count):
    width, height = size
    places = boxes(moving_masks(seed, count, width, height))
    assert all((bottom - top, right - left) == (height // 2, width // 2) for top, bottom, left, right in places)
    jumps = np.abs(np.diff(np.array(places)[:, [0, 2]], axis=0))
    # 8 times the published 5 of 960 pixels, and rounding
    assert (jumps <= [40 * height / 540 + 1, 40 * width / 960 + 1]).all()


def test_moving_windows_move():
    assert len(set(boxes(moving_masks(3, 32, 160, 96)))) > 10


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(seeds, sizes, st.sampled_from([0.1, 0.25, 0.5]))
def test_polygons_show_about_their_share_and_no_more(seed, size, share):
    width, height = size
    masks = polygon_masks(seed, 3, width, height, share)
    for mask in masks:
        assert mask.any()
        assert 0.75 * share <= mask.mean() <= share


def test_polygons_are_irregular_and_drift():
    masks = polygon_masks(5, 8, 160, 96, 0.25)
    with pytest.raises(AssertionError):
        boxes(masks)
    assert (masks[0] != masks[-1]).any()


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_masks_follow_from_their_arguments(seed):
    for make in (corner_masks, moving_masks):
        np.testing.assert_array_equal(make(seed, 5, 40, 24), make(seed, 5, 40, 24))
    for make in (window_masks, polygon_masks):
        np.testing.assert_array_equal(make(seed, 5, 40, 24, 0.25), make(seed, 5, 40, 24, 0.25))


@given(
    st.integers(1, 9),
    st.integers(9, 64),
    st.floats(0.0, 0.25),
    st.floats(0.75, 1.0),
)
def test_sparse_variants_train_on_so_many_whole_photos_between_first_and_last(views, count, first, last):
    variant = Variant("s", "sparse", 0, views=views, first=first, last=last)
    frames = variant.training_frames(count)
    assert frames == sorted(set(frames)) and len(frames) <= views
    if views <= 0.5 * (count - 1):
        assert len(frames) == views
    assert first * (count - 1) - 0.5 <= frames[0] and frames[-1] <= last * (count - 1) + 0.5
    assert variant.masks(count, 4, 4).all()


def test_masked_variants_train_on_each_so_many_th_frame():
    assert Variant("c", "corner", 0, every=2).training_frames(7) == [0, 2, 4, 6]


def drawn(count: int = 1500) -> list[Variant]:
    return [draw_variant(np.random.default_rng(seed)) for seed in range(count)]


def test_drawn_variants_follow_from_the_generator():
    assert drawn(20) == drawn(20)
    assert len(set(drawn(20))) > 15


def test_all_kinds_and_one_to_nine_views_are_drawn_two_of_three_sparse():
    found = drawn()
    assert {variant.kind for variant in found} == {"corner", "window", "moving", "polygon", "sparse"}
    assert {variant.views for variant in found if variant.kind == "sparse"} == set(range(1, 10))
    assert {variant.share for variant in found if variant.kind == "window"} == {0.1, 0.5}
    assert {variant.every for variant in found if variant.kind != "sparse"} == {1, 2, 4}
    assert np.mean([variant.kind == "sparse" for variant in found]) == pytest.approx(0.67, abs=0.05)


def test_names_say_what_is_known():
    for variant in drawn(100):
        if variant.kind == "sparse":
            assert variant.name == f"sparse{variant.views}" and len(variant.training_frames(32)) == variant.views
        elif variant.share in (0.1, 0.5) or variant.kind == "corner":
            percent = round(100 * variant.masks(4, 64, 48).mean())
            assert variant.name.split("-")[0] in (
                f"window{percent}",
                f"polygon{percent + 1}",
                f"polygon{percent}",
                "corner",
            )
