"""scripts/bench on the make-believe device: both trainers, and repairs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from simulated_cuda import simulated_cuda
from simulated_gsplat import Steps
from tiny_networks import LITE, OFFICIAL

from diffusion.configurations import CONFIGURATIONS


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).parents[2] / "scripts" / "bench"
    monkeypatch.syspath_prepend(str(folder))
    for script in folder.glob("*.py"):  # other folders have scripts of the same names
        monkeypatch.delitem(sys.modules, script.stem, raising=False)
    for configuration in (LITE, OFFICIAL):
        monkeypatch.setitem(CONFIGURATIONS, configuration.name, configuration)


def test_both_trainers_take_steps(gpu, scripts, monkeypatch):
    import train

    theirs = Steps()
    theirs.install(monkeypatch)
    args = train.Args(gaussians=(200,), photo=(40, 24), steps=2, blocks=2)
    rows = train.measured(args, torch.device("cuda"))
    assert [(row["trainer"], row["splats"]) for row in rows] == [("genfusion", 200), ("gsplat", 200)]
    assert all(row["median_ms"] > 0 and 0 < row["loss"] < 100 for row in rows)
    # gsplat's part goes through gsplat: a block and a step more than are timed
    assert theirs.calls.count("rasterize") == 7


def test_our_steps_learn_the_photos(gpu, scripts):
    from room import Room
    from train import our_step

    step = our_step(Room.make(400, (40, 24), torch.device("cuda"), views=1), torch.device("cuda"))
    first, *_, last = [float(step(index)) for index in range(25)]
    assert last < 0.9 * first


@pytest.mark.parametrize("free", [20 << 30, 1])
def test_repairs_with_the_settings_of_the_plan(scripts, free):
    import repair

    args = repair.Args(weights=("tiny-lite", "tiny-official"), sizes=((24, 16),), frames=2, repeats=1, steps=1)
    with simulated_cuda(memory=(free, 24 << 30)):
        rows = repair.measure_all(args, torch.device("cuda"))
    found = [(row["weights"], row["size"], row["frames"]) for row in rows]
    assert found == [("tiny-lite", "24x16", 2), ("tiny-official", "24x16", 2)]
    assert all(row["offload"] == (free == 1) and row["dtype"] == "bfloat16" for row in rows)
    assert all(row["median_ms"] > 0 and row["planned_bytes"] > 0 for row in rows)


def test_what_does_not_fit_is_left_out_and_the_rest_goes_on(cuda, scripts, monkeypatch):
    import repair

    def full(*arguments):
        if arguments[0] == "tiny-lite":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 12.60 GiB.\nmore")
        return {"median_ms": 1.0}

    monkeypatch.setattr(repair, "measured", full)
    args = repair.Args(weights=("tiny-lite", "tiny-official"), sizes=((24, 16),))
    lost, kept = repair.measure_all(args, torch.device("cuda"))
    assert lost["left_out"].endswith("12.60 GiB.") and kept["weights"] == "tiny-official"
