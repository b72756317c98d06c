"""What travels to a lent machine comes out as it went in, as nearly as it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_fits import write_toys

PACK = Path(__file__).parents[2] / "scripts" / "lent_gpu" / "pack.py"


def travelled(source: Path, folder: Path) -> Path:
    for mode, a, b in (("pack", source, folder / "packed"), ("unpack", folder / "packed", folder / "back")):
        subprocess.run([sys.executable, PACK, mode, a, b], check=True, capture_output=True)
    return folder / "back"


@pytest.mark.slow
def test_fits_and_scenes_come_back(tmp_path):
    fits = write_toys(tmp_path / "data")
    random = torch.Generator().manual_seed(0)
    depth = (1 + torch.rand(2, 24, 32, generator=random)).half()
    depth[0, :4], depth[1, :4] = 0, torch.inf
    smooth = torch.linspace(0, 255, 32).round().byte().expand(2, 24, 32)[..., None].expand(2, 24, 32, 3)
    scene = tmp_path / "data" / "scene.safetensors"
    save_file({"rgb": smooth.contiguous(), "depth": depth, "K": torch.eye(3).double()}, scene)
    back = travelled(tmp_path / "data", tmp_path)
    for path in (*fits, scene):
        before, after = load_file(path), load_file(back / path.name)
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert (after[name].shape, after[name].dtype) == (value.shape, value.dtype), name
            if name.endswith("depth"):
                a, b = value.float(), after[name].float()
                assert torch.equal(a > 0, b > 0) and torch.equal(a.isinf(), b.isinf()), name
                known = (a > 0) & a.isfinite()
                step = 0.002 if name in ("depth", "target_depth") else 0.02
                assert ((b / a)[known].log().abs() <= step / 2 + 2e-3).all(), name
            elif value.dtype != torch.uint8:
                assert torch.equal(after[name], value), name
    assert (load_file(back / scene.name)["rgb"].float() - smooth).abs().max() <= 8
