"""Initial points: they tell nothing that the known pixels of the training views do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genfusion_ns.cameras import project
from genfusion_ns.training_data.footage import Footage, procedural_footage
from genfusion_ns.training_data.points import KnownView, known_view, starting_points
from genfusion_ns.training_data.variants import Variant

WIDTH, HEIGHT = 80, 48


@pytest.fixture(scope="module")
def footage() -> Footage:
    return procedural_footage("tables", 1, 4, WIDTH, HEIGHT)


def views_of(footage: Footage, masks: np.ndarray, rgb: np.ndarray | None = None, depth=None) -> list[KnownView]:
    rgb = footage.rgb if rgb is None else rgb
    depth = footage.depth if depth is None else depth
    return [
        known_view(camera, rgb[i], masks[i], depth[i], footage.names[i], i) for i, camera in enumerate(footage.cameras)
    ]


def test_a_known_view_is_the_window_around_its_known_pixels(footage):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:20, 30:50] = True
    mask[12, 33] = False
    view = known_view(footage.cameras[0], footage.rgb[0], mask, footage.depth[0], "a", 7)
    assert view.view.image.shape == (10, 20, 3) and view.view.index == 7
    np.testing.assert_array_equal(view.view.image[2, 3], 0)
    np.testing.assert_array_equal(view.view.image[3, 3], footage.rgb[0, 13, 33])
    np.testing.assert_array_equal(view.depth, footage.depth[0, 10:20, 30:50])
    point = torch.tensor([[0.1, 0.2, -0.1]], dtype=torch.float64)
    full, cut = (project(point, camera)[0] for camera in (footage.cameras[0], view.view.camera))
    torch.testing.assert_close(full - cut, torch.tensor([[30.0, 10.0]], dtype=torch.float64))


@pytest.mark.parametrize("kind", ["corner", "polygon", "moving", "sparse"])
def test_points_depend_on_known_pixels_only(footage, kind):
    masks = Variant("v", kind, 3, share=0.25).masks(4, WIDTH, HEIGHT)
    if kind == "sparse":
        masks[:, :, WIDTH // 2 :] = False
    spoiled = np.where(masks[..., None], footage.rgb, 255 - footage.rgb)
    bent = np.where(masks, footage.depth, 0.5 * footage.depth)
    first = starting_points(views_of(footage, masks), 500, 9)
    second = starting_points(views_of(footage, masks, spoiled, bent), 500, 9)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["corner", "polygon", "sparse"])
def test_points_are_about_as_many_as_asked_for_and_lie_behind_known_pixels(footage, kind):
    masks = Variant("v", kind, 3, share=0.25).masks(4, WIDTH, HEIGHT)
    xyz, rgb = starting_points(views_of(footage, masks), 600, 5)
    assert 450 <= len(xyz) == len(rgb) <= 750 and xyz.isfinite().all()
    assert (rgb >= 0).all() and (rgb <= 1).all()
    seen = torch.zeros(len(xyz), dtype=torch.bool)
    for camera, mask in zip(footage.cameras, masks, strict=True):
        pixels, depth = project(xyz.double(), camera)
        # half a pixel of slack: measured points have noise
        for dx, dy in ((0, 0), (0.5, 0.5), (-0.5, 0.5), (0.5, -0.5), (-0.5, -0.5)):
            x, y = (pixels[:, 0] + dx).floor().long(), (pixels[:, 1] + dy).floor().long()
            inside = (depth > 0) & (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
            hit = torch.from_numpy(mask)[y.clamp(0, HEIGHT - 1), x.clamp(0, WIDTH - 1)]
            seen |= inside & hit
    assert seen.float().mean() > 0.99


def test_without_a_second_view_nothing_is_measured_and_depths_are_guesses(footage):
    masks = np.ones((4, HEIGHT, WIDTH), bool)
    view = views_of(footage, masks)[:1]
    bent = views_of(footage, masks, depth=3.0 * footage.depth)[:1]
    assert torch.equal(starting_points(view, 200, 1)[0], starting_points(bent, 200, 1)[0])


def test_measured_points_lie_near_surfaces(footage):
    views = views_of(footage, np.ones((4, HEIGHT, WIDTH), bool))
    xyz, _ = starting_points(views, 0, 2)
    assert len(xyz) > 10
    error = np.full(len(xyz), np.inf)
    for camera, depth in zip(footage.cameras, footage.depth, strict=True):
        pixels, z = project(xyz.double(), camera)
        place = np.clip(np.floor(pixels.numpy()).astype(int), 0, [WIDTH - 1, HEIGHT - 1])
        error = np.minimum(error, np.abs(depth[place[:, 1], place[:, 0]] / z.numpy() - 1))
    assert np.median(error) < 0.02


def test_a_captures_tracks_are_triangulated_from_known_pixels(shared):
    from genfusion_ns.training_data.footage import capture_footage

    folder = shared / "data" / "plush"
    footage = capture_footage(folder, 1, 6, WIDTH, HEIGHT)
    known = np.ones((6, HEIGHT, WIDTH), bool)
    half = known.copy()
    half[:, :, WIDTH // 2 :] = False
    # two far corners are known, so that the window is the whole photo and the mask alone hides the rest
    half[:, [0, -1], -1] = True

    def measured(masks):
        views = [
            known_view(camera, footage.rgb[i], masks[i], None, footage.names[i], i)
            for i, camera in enumerate(footage.cameras)
        ]
        return starting_points(views, 0, 0, folder)[0]

    full, some = measured(known), measured(half)
    assert len(full) > 50 and 0 < len(some) < len(full)
    # tracks are matched at 640 pixels; reprojected at 80 they must be well within a pixel of a known one
    pixels = torch.stack([project(some.double(), camera)[0][:, 0] for camera in footage.cameras])
    assert ((pixels < WIDTH // 2 + 1).sum(0) >= 2).all()
