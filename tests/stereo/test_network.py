"""The network's parts against plain computations."""

import torch
from stereo_scene import photo_at

from genfusion_ns.stereo.network import (
    GROUPS,
    UNSEEN,
    StereoNetwork,
    compare,
    convex_upsample,
    local_expectation,
)
from genfusion_ns.stereo.sweep import relative_projection


def inputs(count=2):
    photos = [photo_at(p)[0] for p in ((3.0, 0.0, 0.4), (3.0, 0.3, 0.4), (3.0, -0.3, 0.4))[: count + 1]]
    rgb = torch.stack([photo.rgb.permute(2, 0, 1) * 2 - 1 for photo in photos])
    cameras = [photo.camera for photo in photos]
    projections = [relative_projection(cameras[0].K, cameras[0].w2c, c.K, c.w2c) for c in cameras[1:]]
    projections = torch.stack(projections) if projections else torch.zeros(0, 3, 4)
    return rgb[:1], rgb[None, 1:], projections[None], torch.tensor([0.6]), torch.full((1, 1, 8, 12), -1.0)


def test_any_number_of_sources_and_gradients_everywhere():
    torch.manual_seed(0)
    network = StereoNetwork()
    for count in (0, 1, 2):
        output = network(*inputs(count))
        assert output.inverse_depth.shape == (1, 1, 32, 48) and output.logits.shape == (1, 64, 8, 12)
        assert bool((output.inverse_depth >= 0).all())
    total = sum(part.square().mean() for part in output)
    total.backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_the_order_of_sources_does_not_matter():
    torch.manual_seed(0)
    network = StereoNetwork().eval()
    photo, sources, projections, nearest, tracks = inputs(2)
    a = network(photo, sources, projections, nearest, tracks).inverse_depth
    b = network(photo, sources.flip(1), projections.flip(1), nearest, tracks).inverse_depth
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_comparison_is_best_where_features_are_the_same():
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(1, GROUPS, 4, 6, 8, generator=generator), dim=2).flatten(1, 2)
    camera = photo_at((3.0, 0.0, 0.4), 8, 6)[0].camera
    projection = relative_projection(camera.K, camera.w2c, camera.K, camera.w2c)[None, None]
    planes = torch.rand(1, 5, 6, 8, generator=generator)
    volume = compare(features, [features], projection, 1.0, planes)  # a photo with itself: the same at every depth
    mean, best, share, several = volume[:, :GROUPS], volume[:, GROUPS : 2 * GROUPS], volume[:, -3], volume[:, -2]
    inside = share > 0
    assert float(inside.float().mean()) > 0.6  # borders may fall outside by rounding
    torch.testing.assert_close(mean[:, 0][inside], torch.ones_like(mean[:, 0][inside]), atol=1e-3, rtol=0)
    assert float(several.max()) == 0
    assert bool((best[:, 0][~inside] == UNSEEN).all())


def test_nothing_to_compare_with_is_unseen_everywhere():
    features = torch.ones(1, 8, 4, 4)
    volume = compare(features, [], torch.zeros(1, 0, 3, 4), 1.0, torch.rand(1, 3, 4, 4))
    assert bool((volume[:, GROUPS : 2 * GROUPS] == UNSEEN).all()) and not bool(volume[:, :GROUPS].any())


def test_expectation_stays_at_one_of_two_surfaces():
    logits = torch.full((1, 16, 1, 1), -9.0)
    logits[0, 3], logits[0, 4], logits[0, 12] = 2.0, 2.0, 2.5
    index, mass = local_expectation(logits)
    assert abs(float(index) - 3.5) < 0.05
    assert 0.5 < float(mass) < 0.7


def test_upsampling_is_convex_and_keeps_constants():
    generator = torch.Generator().manual_seed(0)
    values, logits = torch.rand(2, 1, 4, 5, generator=generator), torch.randn(2, 36, 4, 5, generator=generator)
    fine = convex_upsample(values, logits)
    assert fine.shape == (2, 1, 8, 10)
    low = -torch.nn.functional.max_pool2d(-values, 3, 1, 1).repeat_interleave(2, -1).repeat_interleave(2, -2)
    high = torch.nn.functional.max_pool2d(values, 3, 1, 1).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert bool(((fine >= low - 1e-6) & (fine <= high + 1e-6)).all())
    torch.testing.assert_close(convex_upsample(torch.ones_like(values), logits), torch.ones(2, 1, 8, 10))
