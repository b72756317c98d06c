"""The benchmark script: its scene, its rows, its messages. Speed itself is not tested here."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from genfusion_ns.errors import UserError
from genfusion_ns.raster.torch_projection import rotation_matrices

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "raster.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_raster", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_raster"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_raster"]


def test_rows_have_what_readers_look_for(bench, capsys):
    bench.main(bench.Args(sizes="300x40x24,200x24x16", torch_up_to=250, rounds=1, steps_per_round=1, json="-"))
    first, second = json.loads(capsys.readouterr().out)
    assert (first["n"], first["width"], first["height"]) == (300, 40, 24)
    assert first["torch_ms"] is None and first["ratio_torch_over_numba"] is None and first["numba_ms"] > 0
    assert second["ratio_torch_over_numba"] == pytest.approx(second["torch_ms"] / second["numba_ms"])


def test_rows_can_go_to_a_file(bench, tmp_path):
    path = tmp_path / "rows.json"
    bench.main(bench.Args(sizes="50x16x16", torch_up_to=0, rounds=1, steps_per_round=1, json=str(path)))
    assert json.loads(path.read_text())[0]["n"] == 50


@pytest.mark.parametrize("sizes", ["", "100x10", "axbxc", "0x10x10", "100x10x10x10"])
def test_sizes_that_make_no_sense(bench, sizes):
    with pytest.raises(UserError, match="expected NxWIDTHxHEIGHT"):
        bench.parse_sizes(sizes)


def test_scene_has_the_overlap_wanted_and_depends_on_the_seed_alone(bench):
    splats, camera = bench.make_room(4000, 3), bench.make_camera(96, 54)
    assert torch.equal(splats.means, bench.make_room(4000, 3).means)
    assert not torch.equal(splats.means, bench.make_room(4000, 4).means)
    bench.size_splats(splats, camera)
    assert bench.overlap(splats, camera) == pytest.approx(50, rel=0.02)


def test_frames_become_quaternions(bench):
    g = torch.Generator().manual_seed(0)
    frames = torch.linalg.qr(torch.randn(20, 3, 3, generator=g)).Q
    frames = frames * torch.linalg.det(frames)[:, None, None]
    quats = bench._frame_quats(frames[:, :, 0], frames[:, :, 1])
    torch.testing.assert_close(rotation_matrices(quats), frames, atol=1e-5, rtol=0)


def test_slope_is_the_exponent(bench):
    xs = [1.0, 2.0, 5.0]
    assert bench.slope(xs, [3.0 * x**1.5 for x in xs]) == pytest.approx(1.5)
