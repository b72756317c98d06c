"""Pretrained networks as estimators, with tiny models of random weights."""

import math
from functools import partial

import pytest
import torch
from stereo_scene import certain, photo_at

from genfusion_ns.errors import UserError
from genfusion_ns.stereo.posed_photos import PhotoDepth
from genfusion_ns.stereo.pretrained import (
    FittedEstimator,
    depth_anything_3,
    fitted,
    merged,
    posed_disparities,
    transformers_network,
)


class Exact:
    """A base estimator that knows the depth where it is `sure`."""

    name, fingerprint = "exact", "0"

    def __init__(self, depths, confidence):
        self.depths, self.confidence = depths, confidence

    def estimate(self, photos, progress=None):
        return [
            PhotoDepth(torch.where(self.confidence > 0.5, d, 3.0), self.confidence, torch.full_like(d, 0.1))
            for d in self.depths
        ]


def half_sure(depth):
    confidence = torch.full_like(depth, 0.05)
    confidence[:, ::2] = 0.9
    return confidence


def test_scale_and_shift_are_found_where_the_base_is_sure_and_the_shape_is_kept_elsewhere():
    photo, depth = photo_at((3.0, 0.0, 0.4))
    shape = 7.0 * (1 / depth[..., 0]) + 2.0
    base = Exact([depth], half_sure(depth))
    (found,) = FittedEstimator("mono", lambda photos: [shape], base).estimate([photo])
    error = (found.depth / depth - 1).abs()
    assert float(error.quantile(0.95)) < 0.02
    assert float(found.confidence[:, 1::2].mean()) > 0.5  # a shape that fits is believed
    wrong = torch.rand(shape.shape, generator=torch.Generator().manual_seed(0))
    (doubted,) = FittedEstimator("mono", lambda photos: [wrong], base).estimate([photo])
    assert float(doubted.confidence[:, 1::2].mean()) < 0.2
    assert float((doubted.depth / depth - 1).abs()[:, ::2].median()) < 0.1  # the base stands where it is sure


def test_tracks_anchor_the_scale_where_the_base_is_nowhere_sure():
    photo, depth = photo_at((3.0, 0.0, 0.4))
    v, u = torch.meshgrid(torch.arange(2, 32, 4), torch.arange(2, 48, 4), indexing="ij")
    pixels = torch.stack([u, v], -1).reshape(-1, 2)
    object.__setattr__(photo, "track_pixels", pixels + 0.5)
    object.__setattr__(photo, "track_depths", depth[pixels[:, 1], pixels[:, 0], 0])
    none = torch.full_like(depth, 0.01)
    guess = PhotoDepth(torch.full_like(depth, 9.0), none, none + 1)
    found = fitted(3.0 / depth[..., 0] + 0.5, photo, guess)
    assert float((found.depth / depth - 1).abs().median()) < 0.03
    assert float(found.spread.min()) > 0 and not math.isnan(float(found.confidence.max()))


def test_the_surer_of_two_depths_wins():
    _, depth = photo_at((3.0, 0.0, 0.4))
    joined = merged(certain(depth, 0.9), certain(2 * depth, 0.05))
    assert float((joined.depth / depth - 1).abs().max()) < 0.02 and float(joined.confidence.min()) > 0.89


def test_any_depth_model_of_transformers_works(tmp_path):
    transformers = pytest.importorskip("transformers")
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[8, 8],
        reassemble_hidden_size=16,
        reassemble_factors=[1, 0.5],
        fusion_hidden_size=8,
        head_hidden_size=4,
        patch_size=14,
    )
    torch.manual_seed(0)
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(tmp_path)
    transformers.DPTImageProcessor(size={"height": 28, "width": 28}, ensure_multiple_of=14).save_pretrained(tmp_path)
    photo, depth = photo_at((3.0, 0.0, 0.4))
    network = transformers_network(str(tmp_path), "cpu")
    with torch.no_grad():
        assert next(iter(network([photo]))).shape == (32, 48)
    (found,) = FittedEstimator("tiny", network, Exact([depth], half_sure(depth))).estimate([photo])
    assert bool(found.depth.isfinite().all()) and bool((found.depth > 0).all())


def test_missing_weights_give_one_line_with_the_command(tmp_path):
    with pytest.raises(UserError, match=r"cannot be loaded.*huggingface-cli download"):
        transformers_network(str(tmp_path / "nothing"), "cpu")


def test_depth_anything_3_is_given_the_cameras_and_fitted():
    photos, depths = zip(*(photo_at(p) for p in ((3.0, 0.3, 0.4), (3.0, -0.3, 0.4))), strict=True)
    asked = {}

    class Model:
        """Stands in for the network: depth at half of the scene's scale and another size."""

        def inference(self, images, extrinsics, intrinsics):
            asked.update(images=images, extrinsics=extrinsics, intrinsics=intrinsics)
            small = [
                torch.nn.functional.interpolate(d.permute(2, 0, 1)[None] / 2, (28, 42))[0, 0].numpy() for d in depths
            ]
            return type("Prediction", (), {"depth": small})()

    base = Exact(depths, half_sure(depths[0]))
    found = FittedEstimator("da3", partial(posed_disparities, Model()), base).estimate(photos)
    assert asked["extrinsics"].shape == (2, 4, 4) and asked["images"][0].dtype.name == "uint8"
    assert asked["intrinsics"][0].tolist() == photos[0].camera.K.tolist()
    for estimate, depth in zip(found, depths, strict=True):
        assert float((estimate.depth / depth - 1).abs().median()) < 0.03


def test_depth_anything_3_missing_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "depth_anything_3", None)
    with pytest.raises(UserError, match="pip install depth-anything-3"):
        depth_anything_3("anything", "cpu")
