"""Depth is found once and read back to the bit, unless anything that it depends on changed."""

from dataclasses import replace

import numpy as np
import torch
from stereo_scene import certain, exact_depth, photo_at

from genfusion_ns.data.colmap import Tracks
from genfusion_ns.data.triangulate import Triangulated
from genfusion_ns.data.views import TrainView
from genfusion_ns.stereo.capture_depth import FILE_NAME, capture_depth

NOTHING = Triangulated(np.zeros((0, 3)), Tracks(*(np.zeros(0, np.int64),) * 2, np.zeros((0, 2))), np.zeros(0, np.int64))


class Counting:
    """Knows the exact depth, and counts how often it is asked."""

    name, fingerprint, calls = "counting", "1", 0

    def estimate(self, photos, progress=None):
        self.calls += 1
        return [certain(exact_depth(photo.camera), 0.7) for photo in photos]


def views():
    photos = [photo_at(p)[0] for p in ((3.0, 0.3, 0.4), (3.0, -0.3, 0.4))]
    images = [(255 * photo.rgb).round().to(torch.uint8).numpy() for photo in photos]
    cameras = [photo.camera.to(dtype=torch.float64) for photo in photos]
    return [
        TrainView(camera, image, f"{i}.png", i) for i, (camera, image) in enumerate(zip(cameras, images, strict=True))
    ]


def test_a_second_run_reads_the_same_bits(tmp_path):
    estimator = Counting()
    first, second = (capture_depth(views(), NOTHING, estimator, 24, tmp_path / "run") for _ in range(2))
    assert estimator.calls == 1 and first.photos[0].rgb.shape == (16, 24, 3)
    for a, b in zip(first.depths, second.depths, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.maps(), b.maps(), strict=True))


def test_other_photos_weights_or_sizes_are_found_anew(tmp_path):
    estimator = Counting()
    capture_depth(views(), NOTHING, estimator, 24, tmp_path)
    changed = views()
    image = changed[0].image.copy()
    image[0, 0] ^= 255
    capture_depth([replace(changed[0], image=image), changed[1]], NOTHING, estimator, 48, tmp_path)
    assert estimator.calls == 2
    capture_depth(views(), NOTHING, estimator, 24, tmp_path)
    estimator.fingerprint = "2"
    capture_depth(views(), NOTHING, estimator, 24, tmp_path)
    assert estimator.calls == 4


def test_a_broken_file_is_written_again(tmp_path):
    estimator = Counting()
    (tmp_path / FILE_NAME).write_bytes(b"half of it")
    capture_depth(views(), NOTHING, estimator, 24, tmp_path)
    capture_depth(views(), NOTHING, estimator, 24, tmp_path)
    assert estimator.calls == 1
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
