"""The plane sweep's projections against projecting points in space."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stereo_scene import camera_at, photo_at

from genfusion_ns.cameras import project, unproject
from genfusion_ns.stereo.sweep import relative_projection, sample_planes, scaled_projection, swept_pixels


@settings(max_examples=30, deadline=None)
@given(st.floats(0.5, 20.0), st.sampled_from([1.0, 0.5, 0.25]), st.floats(-2, 2))
def test_pixels_are_those_of_the_points_in_space(depth, factor, side):
    reference, source = camera_at((3.0, 0.0, 1.0)), camera_at((3.0, side, 0.5))
    small = reference.resized(int(reference.width * factor), int(reference.height * factor))
    small_source = source.resized(int(source.width * factor), int(source.height * factor))
    points = unproject(torch.full((small.height, small.width, 1), depth), small)
    pixels, z = project(points, small_source)
    projection = relative_projection(reference.K, reference.w2c, source.K, source.w2c)[None]
    inverse = torch.full((1, 1, small.height, small.width), 1 / depth)
    swept, ratio = swept_pixels(scaled_projection(projection, factor), inverse)
    before = z > 0.05
    torch.testing.assert_close(swept[0, 0][before], pixels[before], rtol=1e-3, atol=2e-2)
    torch.testing.assert_close(ratio[0, 0], z / depth, rtol=1e-3, atol=1e-3)


def test_at_infinity_only_the_rotation_counts():
    reference, source = camera_at((3.0, 0.0, 1.0)), camera_at((30.0, 0.0, 10.0))  # the same direction
    projection = relative_projection(reference.K, reference.w2c, source.K, source.w2c)[None]
    swept, _ = swept_pixels(projection, torch.zeros(1, 1, 32, 48))
    v, u = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    torch.testing.assert_close(swept[0, 0], torch.stack([u, v], -1), rtol=1e-3, atol=5e-3)


def test_right_depth_brings_the_same_colours_and_wrong_depth_others():
    (reference, depth), (source, _) = photo_at((3.0, 0.2, 0.4), 96, 64), photo_at((3.0, -0.2, 0.3), 96, 64)
    projection = relative_projection(reference.camera.K, reference.camera.w2c, source.camera.K, source.camera.w2c)[None]
    errors = []
    for factor in (1.0, 1.2):
        pixels, ratio = swept_pixels(projection, (factor / depth).permute(2, 0, 1)[None])
        colours, inside = sample_planes(source.rgb.permute(2, 0, 1)[None], pixels, ratio)
        error = (colours[0, :, 0].T - reference.rgb.flatten(0, 1)).abs().mean(-1)
        errors.append(float(error[inside[0, 0] > 0].median()))
    assert errors[0] < 0.01 and errors[1] > 5 * errors[0]


def test_places_outside_of_the_source_or_behind_it_are_marked():
    features = torch.ones(1, 2, 4, 6)
    pixels = torch.tensor([[3.0, 2.0], [-1.0, 2.0], [3.0, 5.0], [3.0, 2.0]]).reshape(1, 1, 1, 4, 2)
    sampled, inside = sample_planes(features, pixels, torch.tensor([1.0, 1.0, 1.0, -1.0]).reshape(1, 1, 1, 4))
    assert inside.flatten().tolist() == [1.0, 0.0, 0.0, 0.0]
    assert sampled.shape == (1, 2, 1, 4) and sampled[0, :, 0, 0].tolist() == pytest.approx([1.0, 1.0])
