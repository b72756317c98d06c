"""scripts/bench/gpu.py where there is no GPU: it refuses, and can be tried on a CPU."""

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
"""Packages of this environment that the script's own list leaves out."""
BARE = f"""
import runpy, sys
from importlib.machinery import PathFinder
class Fewer(PathFinder):
    @classmethod
    def find_spec(cls, name, *options):
        return None if name.split(".")[0] in {NOT_NAMED.split()!r} else super().find_spec(name, *options)
sys.meta_path[sys.meta_path.index(PathFinder)] = Fewer
sys.argv[0] = {str(SCRIPTS / "gpu.py")!r}
sys.path.insert(0, {str(SCRIPTS)!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TINY = "--gaussians 300 --photo 48 32 --steps 2 --blocks 2 --clips 32 24 --frames 2 --repeats 1 --no-compile"


@pytest.fixture
def bench_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import gpu as bench_gpu

    return bench_gpu


@pytest.mark.slow
def test_it_runs_with_the_packages_that_it_names(bench_gpu):
    """In a process of its own, on a CPU; also nothing but JSON goes to standard output."""
    arguments = f"--device cpu --weights lite --sampler-steps 1 --json - {TINY}".split()
    done = subprocess.run([sys.executable, "-c", BARE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    ours, theirs = report["steps"]
    assert ours["trainer"] == "genfusion" and ours["min_ms"] <= ours["median_ms"] <= ours["max_ms"]
    assert 0 < ours["loss"] < 2 and ours["peak_bytes"] is None
    assert theirs["trainer"] == "gsplat" and "CUDA" in theirs["left_out"]
    (clip,) = report["clips"]
    assert (clip["size"], clip["frames"], clip["steps"]) == ("32x24", 2, 1) and clip["seconds"]["median"] > 0
    assert report["machine"]["packages"]["torch"] == torch.__version__


@pytest.mark.parametrize("advice", [None, "this machine has a GPU, but torch cannot use it"])
def test_it_refuses_without_a_gpu(bench_gpu, monkeypatch, advice):
    monkeypatch.setattr(gpu, "unused_gpu", lambda *_: advice)
    with pytest.raises(UserError, match=f"--device cpu.*{advice or 'sees none here'}"):
        bench_gpu.check_device(bench_gpu.BenchGpu())
