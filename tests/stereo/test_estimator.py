"""The estimator around the network: sizes, tracks, errors; what the bundled weights see is in test_weights.py."""

import pytest
import torch
from safetensors.torch import save_file
from stereo_scene import photo_at

from genfusion_ns.errors import UserError
from genfusion_ns.stereo.estimator import StereoEstimator, create_estimator, padded, track_map
from genfusion_ns.stereo.network import StereoNetwork
from genfusion_ns.stereo.posed_photos import reduced


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file({name: value.half() for name, value in StereoNetwork().state_dict().items()}, path)
    return path


def test_every_photo_gets_a_depth_of_its_own_size_whatever_the_others(weights):
    photos = [
        photo_at((3.0, 0.0, 0.4), 50, 33)[0],
        photo_at((3.0, 0.5, 0.4), 33, 70)[0],
        photo_at((-3.0, 0, 0), 48, 32)[0],
    ]
    done = []
    depths = StereoEstimator(weights).estimate(photos, done.append)
    assert [d.depth.shape for d in depths] == [(33, 50, 1), (70, 33, 1), (32, 48, 1)]
    assert done == [1, 2, 3]
    for depth in depths:
        assert bool((depth.depth > 0).all()) and bool(depth.depth.isfinite().all())
        assert float(depth.confidence.min()) >= 0 and float(depth.confidence.max()) <= 1
        assert float(depth.spread.min()) > 0


def test_one_photo_alone_has_a_depth_too(weights):
    (depth,) = StereoEstimator(weights).estimate([photo_at((3.0, 0.0, 0.4))[0]])
    assert bool(depth.depth.isfinite().all())


def test_equal_calls_give_equal_bits(weights):
    photos = [photo_at((3.0, y, 0.4))[0] for y in (-0.3, 0.0, 0.3)]
    a, b = (StereoEstimator(weights).estimate(photos) for _ in range(2))
    assert all(torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p.maps(), q.maps(), strict=True))


def test_padding_repeats_the_border_and_leaves_the_photo_where_it_was():
    photo, _ = photo_at((3.0, 0.0, 0.4), 50, 33)
    wide = padded(photo.rgb)
    assert wide.shape == (1, 3, 48, 64)
    torch.testing.assert_close(wide[0, :, :33, :50], photo.rgb.permute(2, 0, 1) * 2 - 1)
    assert torch.equal(wide[0, :, :33, 63], wide[0, :, :33, 49])


def test_tracks_land_at_a_quarter_of_their_pixels():
    photo, _ = photo_at((3.0, 0.0, 0.4))
    object.__setattr__(photo, "track_pixels", torch.tensor([[9.0, 5.0], [100.0, 5.0], [2.0, 3.0]]))
    object.__setattr__(photo, "track_depths", torch.tensor([4.0, 4.0, -1.0]))
    hint = track_map(photo, (8, 12))
    assert float(hint[0, 0, 1, 2]) == 0.25 and int((hint >= 0).sum()) == 1


def test_reduced_photos_keep_rays_and_tracks():
    photo, _ = photo_at((3.0, 0.0, 0.4), 96, 64)
    object.__setattr__(photo, "track_pixels", torch.tensor([[48.0, 16.0]]))
    small = reduced(photo, 48)
    assert small.rgb.shape == (32, 48, 3) and small.track_pixels.tolist() == [[24.0, 8.0]]
    assert float((small.camera.K[0] * 2 - photo.camera.K[0]).abs().max()) < 1e-5
    assert reduced(photo, 96) is photo


def test_mistakes_are_named(tmp_path, weights):
    with pytest.raises(UserError, match=r"cannot be used.*initial-points tracks"):
        StereoEstimator(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"broken\.safetensors cannot be used"):
        create_estimator(f"stereo:{tmp_path / 'broken.safetensors'}")
    with pytest.raises(UserError, match="expected stereo, transformers:SOURCE"):
        create_estimator(f"midas:{weights}")
