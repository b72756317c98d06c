"""Which photos are compared with which."""

import torch
from stereo_scene import camera_at, photo_at

from genfusion_ns.stereo.overlap import choose_sources, frustum_points, overlap


def test_views_of_the_same_place_come_before_views_that_look_away_and_the_photo_itself_never():
    photos = [photo_at(p)[0] for p in ((3.0, 0.0, 0.5), (3.0, 0.5, 0.5), (-3.0, 0.0, 0.5), (3.0, 1.0, 0.5))]
    sources = choose_sources(photos, 2)
    assert sources[0] == [1, 3] or sources[0] == [3, 1]
    assert all(i not in chosen and len(chosen) == 2 for i, chosen in enumerate(sources))
    assert choose_sources(photos[:2], 4) == [[1], [0]]
    assert choose_sources(photos[:1], 4) == [[]]


def test_overlap_falls_without_parallax_and_with_too_much():
    camera = camera_at((3.0, 0.0, 0.0))
    points = frustum_points(camera, 2.0, 4.0)
    same, near, side = (overlap(points, camera, camera_at((3.0, y, 0.0))) for y in (0.0, 0.6, 6.0))
    assert same < 0.02 < side < near


def test_points_fill_the_frustum():
    camera = camera_at((3.0, 0.0, 0.0))
    local = frustum_points(camera, 2.0, 4.0) @ camera.w2c[:3, :3].T + camera.w2c[:3, 3]
    assert float(local[:, 2].min()) >= 2.0 - 1e-4 and float(local[:, 2].max()) <= 4.0 + 1e-4
    pixels = (local @ camera.K.T)[:, :2] / local[:, 2:]
    assert bool((pixels >= 0).all()) and bool((pixels <= torch.tensor([48.0, 32.0])).all())
