"""Training fits on disk: what is written is read, and what is broken is named."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from toy_fits import toy_fit, write_toys

from diffusion.errors import UserError
from diffusion.train import fits
from diffusion.train.fits import FARTHEST, read_fit, to_bytes, to_half, write_fit


def test_what_is_written_is_read(tmp_path):
    fit = toy_fit(3)
    write_fit(tmp_path / "a.safetensors", fit)
    found = read_fit(tmp_path / "a.safetensors")
    for name in ("render_rgb", "render_depth", "render_alpha", "target_rgb", "target_depth"):
        assert torch.equal(getattr(found, name), getattr(fit, name)), name
    assert torch.equal(found.cameras.w2c, fit.cameras.w2c) and torch.equal(found.cameras.K, fit.cameras.K)
    assert found.provenance == fit.provenance
    assert [len(views) for views in found.sources] == [2, 2]
    for views, given in zip(found.sources, fit.sources, strict=True):
        for source, wanted in zip(views, given, strict=True):
            assert (source.rgb - wanted.rgb).abs().max() <= 0.5 / 255 + 1e-6
            assert (source.confidence - wanted.confidence).abs().max() <= 0.5 / 255 + 1e-6
            torch.testing.assert_close(source.depth, wanted.depth, rtol=1e-3, atol=0)
            assert torch.equal(source.w2c, wanted.w2c) and torch.equal(source.K, wanted.K)


def test_broken_missing_and_other_files_are_named(tmp_path):
    (whole,) = write_toys(tmp_path, 1)
    cut, other, text = (tmp_path / f"{name}.safetensors" for name in ("cut", "other", "text"))
    cut.write_bytes(whole.read_bytes()[:-100])
    save_file({"rgb": torch.zeros(2)}, other)
    text.write_text("no tensors")
    for path in (cut, other, text, tmp_path / "none.safetensors"):
        with pytest.raises(UserError, match=f"{path.name} is no readable fit .*genfusion-make-fits"):
            read_fit(path)


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    (path,) = write_toys(tmp_path, 1)
    before = path.read_bytes()

    def full(tensors, partial, metadata):
        partial.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fits, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        write_fit(path, toy_fit(1))
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_bytes() == before


def test_depth_that_is_none_is_0():
    depth = torch.tensor([1.5, 0.0, -1.0, torch.inf, -torch.inf, torch.nan, 1e9])
    assert to_half(depth).tolist() == [1.5, 0, 0, 0, 0, 0, pytest.approx(FARTHEST, rel=1e-3)]
    assert to_bytes(torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]
