"""The resampler against the official network's recorded outputs."""

from __future__ import annotations

from pathlib import Path

import torch
from parity_data import SLACK, Parity, gap

from diffusion.models.resampler import Resampler


@torch.no_grad()
def test_output_is_the_official_one(parity: Parity, resampler: Resampler) -> None:
    io = parity.io("tiny_resampler_io")
    assert gap(resampler(io["x"]), io["out"]) < 3e-6 * SLACK


@torch.no_grad()
def test_saved_and_loaded_it_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Resampler(6, 10, 12, depth=2, dim_head=4, heads=2, num_queries=5, ffn_ratio=1.5)
    model.save_pretrained(tmp_path)
    loaded = Resampler.from_pretrained(tmp_path)
    tokens = torch.randn(2, 7, 6)
    assert model(tokens).shape == (2, 5, 10)
    assert torch.equal(model(tokens), loaded(tokens))


def test_the_defaults_are_the_official_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in Resampler().parameters()) == 48_787_456
