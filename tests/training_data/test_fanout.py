"""The plan of a data set, its fan-out over processes and machines, and the command."""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pair_units import TINY, tiny_unit

from diffusion.train.shards import build_index, read_shard
from genfusion_ns.commands.make_pairs import MakePairs, check, run
from genfusion_ns.errors import UserError
from genfusion_ns.training_data.fanout import Outcome, run_units
from genfusion_ns.training_data.plan import VALIDATION_SEEDS, plan_units

SMALL = {"size": (32, 32), "frames": 4, "clip_length": 2, "splats": 140, "families": ("points",)}


@pytest.fixture
def brief(monkeypatch):
    """Fits of two steps."""
    monkeypatch.setattr("genfusion_ns.training_data.plan._steps", lambda *_: (1, 2))


def test_a_plan_follows_from_its_numbers_and_can_go_on():
    plan = plan_units(TINY, 12, 2)
    assert plan == plan_units(TINY, 12, 2)
    assert plan == plan_units(TINY, 5, 2) + plan_units(TINY, 7, 2, first=5)
    assert len({unit.name for unit in plan}) == 24
    assert plan != plan_units(replace(TINY, seed=1), 12, 2)


def test_half_of_a_plan_is_sparse_and_the_families_interleave():
    plan = plan_units(TINY, 24, 2)
    assert sum(unit.variant.kind == "sparse" for unit in plan) == 24
    families = [unit.family for unit in plan[::2]]
    assert set(families[:6]) > {"rooms", "tables", "facades", "clutter", "terrains"}
    assert set(families) >= {"points", "menger", "tree"}
    assert all(one != other for one, other in zip(families, families[1:], strict=False))
    assert all(0 < early < late <= 1300 for early, late in (unit.steps for unit in plan))


def test_every_sixth_scene_is_a_capture_by_turns():
    plan = plan_units(TINY, 24, 1, [Path("/a/one"), Path("/a/two")])
    assert [unit.capture for unit in plan if unit.capture] == ["/a/one", "/a/two", "/a/one", "/a/two"]
    assert [number for number, unit in enumerate(plan) if unit.capture] == [5, 11, 17, 23]
    # they displace no family
    assert [unit.family for unit in plan if not unit.capture] == [unit.family for unit in plan_units(TINY, 20, 1)]


def test_training_and_validation_share_no_scene():
    def seeds(split: str, seed: int) -> set[int]:
        return {unit.scene_seed for unit in plan_units(replace(TINY, split=split, seed=seed), 50, 1)}

    assert min(seeds("val", 0)) == VALIDATION_SEEDS
    validation = seeds("val", 0) | seeds("val", 99)
    assert not validation & (seeds("train", 0) | seeds("train", 99) | seeds("train", 200) | seeds("train", 777))
    for split, seed, scenes in (("train", 100, 1), ("train", 199, 1), ("val", 100, 1), ("train", 0, 10_001)):
        with pytest.raises(UserError):
            plan_units(replace(TINY, split=split, seed=seed), scenes, 1)


def test_unknown_families_are_told():
    with pytest.raises(UserError, match=r"castles.*rooms"):
        plan_units(TINY, 1, 1, families=["rooms", "castles"])


def test_the_command_writes_shards_and_an_index_and_goes_on_where_it_was(tmp_path, capsys, brief):
    run(MakePairs(tmp_path, scenes=1, **SMALL))
    assert len(json.loads((tmp_path / "index.json").read_text())["shards"]) == 2
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    capsys.readouterr()
    run(MakePairs(tmp_path, scenes=2, **SMALL))
    assert "2 units were there already" in capsys.readouterr().out
    assert len(build_index(tmp_path)) == 2 * 2 * 2 * 2
    assert stamps.items() <= {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}.items()


def test_a_full_disk_stops_the_command_and_loses_nothing(tmp_path, monkeypatch, capsys, brief):
    run(MakePairs(tmp_path, scenes=1, **SMALL))
    before = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit):
        run(MakePairs(tmp_path, scenes=2, **SMALL))
    assert "No space left" in (told := capsys.readouterr().err) and "run the same command again" in " ".join(
        told.split()
    )
    assert {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_unit_that_fails_is_reported_and_stops_no_other(tmp_path):
    bad = replace(tiny_unit(), family="castles")
    outcomes = list(run_units([bad, tiny_unit()], TINY, tmp_path))
    assert "castles" in outcomes[0].failure and not outcomes[0].done
    assert outcomes[1] == Outcome(tiny_unit().name, True)


def test_the_command_counts_failures(tmp_path, capsys, brief):
    with pytest.raises(SystemExit):
        run(MakePairs(tmp_path, scenes=6, variants=1, captures=(tmp_path / "nothing",), **SMALL))
    out, err = capsys.readouterr()
    assert "nothing" in out and "1 of 6 units failed" in " ".join(err.split())
    assert len(list(tmp_path.glob("*.safetensors"))) == 5


@pytest.mark.slow
def test_processes_write_what_one_process_writes(tmp_path):
    units = [tiny_unit("corner"), tiny_unit("sparse")]
    alone, together = tmp_path / "alone", tmp_path / "together"
    names = {outcome.name for outcome in run_units(units, TINY, alone)}
    assert {outcome.name for outcome in run_units(units, TINY, together, processes=2)} == names
    for name in names:
        file = f"{name}.safetensors"
        assert (alone / file).read_bytes() == (together / file).read_bytes()


def test_without_ray_one_is_told_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'genfusion-ns\[ray\]'"):
        list(run_units([tiny_unit()], TINY, tmp_path, engine="ray"))


def test_ray_gets_one_task_per_unit(tmp_path, monkeypatch):
    asked = []

    def remote(**options):
        asked.append(options)
        return lambda task: SimpleNamespace(remote=lambda *args: lambda: task(*args))

    fake = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **_: asked.append("init"),
        remote=remote,
        wait=lambda waiting, num_returns: (waiting[-1:], waiting[:-1]),
        get=lambda task: task(),
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    units = [tiny_unit("corner"), tiny_unit("sparse")]
    outcomes = list(run_units(units, TINY, tmp_path, engine="ray"))
    assert asked == ["init", {"num_cpus": 1}]
    assert {outcome.name for outcome in outcomes} == {unit.name for unit in units}
    assert all(read_shard(tmp_path / f"{unit.name}.safetensors") for unit in units)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scenes": 0},
        {"variants": 13},
        {"size": (8, 96)},
        {"clip_length": 33},
        {"processes": 0},
        {"splats": 5},
        {"seed": -1},
    ],
)
def test_numbers_out_of_range_are_told(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong)).replace("_", "-")):
        check(replace(MakePairs(tmp_path), **wrong))


def test_an_output_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"):
        list(run_units([tiny_unit()], TINY, tmp_path / "file" / "sub"))
