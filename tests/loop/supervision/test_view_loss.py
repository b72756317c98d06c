"""Blocks of pixels: means by confidence, whatever the size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genfusion_ns.loop.supervision.view_loss import BLOCK, block_means


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_a_block_is_the_mean_of_its_pixels_by_their_confidence(height, width, seed):
    random = torch.Generator().manual_seed(seed)
    image = torch.rand(height, width, 3, generator=random)
    confidence = torch.rand(height, width, 1, generator=random).clamp_min(0.01)
    means, known = block_means(image, confidence)
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    assert (means.shape, known.shape) == ((rows, columns, 3), (rows, columns, 1))
    for y in range(rows):
        for x in range(columns):
            part = slice(y * BLOCK, (y + 1) * BLOCK), slice(x * BLOCK, (x + 1) * BLOCK)
            weight = confidence[part]
            expected = (image[part] * weight).sum((0, 1)) / weight.sum()
            torch.testing.assert_close(means[y, x], expected)
            torch.testing.assert_close(known[y, x, 0], weight.mean())


def test_unknown_pixels_neither_count_nor_pull():
    image = torch.rand(6, 6, 3, requires_grad=True)
    confidence = torch.ones(6, 6, 1)
    confidence[:3, :3], confidence[4, 4] = 0, 0
    means, known = block_means(image, confidence)
    assert (means[0, 0] == 0).all() and float(known[0, 0, 0]) == 0
    means.sum().backward()
    assert (image.grad[:3, :3] == 0).all() and (image.grad[4, 4] == 0).all() and (image.grad[5, 5] > 0).all()


def test_detail_within_a_block_makes_no_difference():
    image, detail = torch.rand(6, 9, 3), torch.zeros(6, 9, 3)
    detail[::3, ::3], detail[1::3, ::3] = 0.2, -0.2
    plain, detailed = (block_means(x, torch.ones(6, 9, 1))[0] for x in (image, image + detail))
    torch.testing.assert_close(plain, detailed)
    assert float((block_means(image + 0.1, torch.ones(6, 9, 1))[0] - plain).mean()) == pytest.approx(0.1, abs=1e-5)
