"""scripts/bench on a CPU: what the rows hold, what is refused. Speed itself is not tested here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genfusion_ns import gpu
from genfusion_ns.errors import UserError

SCRIPTS = Path(__file__).parents[2] / "scripts" / "bench"
NOT_NAMED = "nerfstudio pycolmap open3d viser trimesh skimage cv2 wandb sklearn"
"""Packages of this environment that the scripts' own lists leave out."""
BARE = f"""
import runpy, sys
from importlib.machinery import PathFinder
class Fewer(PathFinder):
    @classmethod
    def find_spec(cls, name, *options):
        return None if name.split(".")[0] in {NOT_NAMED.split()!r} else super().find_spec(name, *options)
sys.meta_path[sys.meta_path.index(PathFinder)] = Fewer
sys.argv = sys.argv[1:]
sys.path.insert(0, {str(SCRIPTS)!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for script in SCRIPTS.glob("*.py"):  # other folders have scripts of the same names
        monkeypatch.delitem(sys.modules, script.stem, raising=False)


def bare(script: str, arguments: str) -> list[dict]:
    """Rows of a script in a process of its own, with the packages that it names; its output may be JSON alone."""
    command = [sys.executable, "-c", BARE, str(SCRIPTS / script), *arguments.split(), "--device", "cpu", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_training_steps():
    (row,) = bare("train.py", "--gaussians 300 --photo 48 32 --steps 2 --blocks 2")
    assert (row["trainer"], row["splats"], row["size"]) == ("genfusion", 300, "48x32")
    assert 0 < row["min_ms"] <= row["median_ms"] <= row["max_ms"] and 0 < row["loss"] < 2
    assert row["machine"]["torch"] == torch.__version__


@pytest.mark.slow
def test_repairs_of_clips():
    (row,) = bare("repair.py", "--weights lite --sizes 32 24 --frames 2 --steps 1 --repeats 1")
    assert (row["size"], row["frames"], row["steps"], row["dtype"]) == ("32x24", 2, 1, "float32")
    assert row["median_ms"] > 0 and 0 < row["planned_bytes"] < row["peak_bytes"]  # the whole process's, torch and all


def test_depth_of_photos(capsys):
    import stereo

    stereo.main(stereo.Args(photos=(2, 3), size=(64, 48), repeats=1, device="cpu", json=Path("-")))
    few, more = json.loads(capsys.readouterr().out)
    assert (few["photos"], more["photos"], few["size"]) == (2, 3, "64x48")
    assert 0 < few["min_ms"] <= few["median_ms"] <= few["max_ms"]


@pytest.mark.slow
def test_a_plan_alone_runs_nothing(monkeypatch):
    import repair

    monkeypatch.setattr(repair, "placed", lambda *_: pytest.fail("weights were loaded"))
    args = repair.Args(weights=("official",), sizes=((512, 320), (960, 512)), plan_only=True)
    small, large = repair.measure_all(args, torch.device("cpu"))
    assert 5 * 2**30 < small["planned_bytes"] < large["planned_bytes"] and "median_ms" not in small


def test_rasterisers_side_by_side(capsys):
    import raster

    raster.main(raster.Args(sizes="300x40x24,200x24x16", torch_up_to=250, rounds=1, json=Path("-")))
    first, second = json.loads(capsys.readouterr().out)
    assert (first["n"], first["width"], first["height"]) == (300, 40, 24)
    assert first["torch_ms"] is None and first["ratio_torch_over_numba"] is None and first["numba_ms"] > 0
    assert second["ratio_torch_over_numba"] == pytest.approx(second["torch_ms"] / second["numba_ms"])


@pytest.mark.parametrize("sizes", ["", "100x10", "axbxc", "0x10x10", "100x10x10x10"])
def test_sizes_that_make_no_sense(sizes):
    import raster

    with pytest.raises(UserError, match="expected NxWIDTHxHEIGHT"):
        raster.parse_sizes(sizes)


def test_rows_go_to_a_file_and_a_table(tmp_path, capsys):
    import measure

    rows = [{"name": "a", "peak_bytes": 3 << 29, "offload": True}, {"name": "b", "left_out": "it is too large"}]
    measure.report(rows, torch.device("cpu"), "things", tmp_path / "rows.json")
    written = json.loads((tmp_path / "rows.json").read_text())
    assert [row["name"] for row in written] == ["a", "b"] and written[0]["machine"]["device"] == "cpu"
    shown = capsys.readouterr().out
    assert "peak GiB" in shown and "1.50" in shown and "yes" in shown and "it is too large" in shown


@pytest.mark.parametrize("advice", [None, "this machine has a GPU, but torch cannot use it"])
def test_cuda_is_refused_without_a_gpu(monkeypatch, advice):
    import measure

    monkeypatch.setattr(gpu, "unused_gpu", lambda *_: advice)
    with pytest.raises(UserError, match=f"--device cpu.*{advice or 'sees none here'}"):
        measure.checked_device("cuda")
