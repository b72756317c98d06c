"""Fan-out over processes, and the command."""

from __future__ import annotations

import errno
import os

import pytest
from tiny_scenes import TINY, tiny_scene

from diffusion.train.fits import read_fit
from genfusion_ns.commands.make_fits import MakeFits, run
from genfusion_ns.errors import UserError
from genfusion_ns.training_data import fanout, make
from genfusion_ns.training_data.fanout import Outcome, Unit, run_units


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    tiny_scene(folder, "scene_00001", "tables", 1)
    tiny_scene(folder, "scene_00002", "facades", 2)
    return folder


@pytest.fixture
def quick(brief, estimator, monkeypatch):
    """The command with fits of a few splats."""
    monkeypatch.setattr("genfusion_ns.commands.make_fits.Recipe", lambda **given: TINY)


@pytest.mark.slow
def test_the_command_makes_fits_and_goes_on_where_it_was(scenes, tmp_path, quick):
    run(MakeFits(scenes, tmp_path, fits=1))
    first = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sorted(first) == [f"scene_0000{i}_fit000.safetensors" for i in (1, 2)]
    run(MakeFits(scenes, tmp_path, fits=2))
    now = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert first.items() <= now.items() and len(now) == 4
    run(MakeFits(scenes, tmp_path, fits=1, first=7))
    assert (tmp_path / "scene_00002_fit007.safetensors").is_file() and len(list(tmp_path.iterdir())) == 6
    assert all(read_fit(path).provenance["scene"] == path.name[:11] for path in tmp_path.iterdir())


def test_no_scenes_are_told(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(MakeFits(tmp_path, tmp_path / "out"))
    told = " ".join(capsys.readouterr().err.split())
    assert "holds no scenes; make some with genfusion-train-stereo scenes" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"fits": 0}, {"first": -1}, {"side": 8}, {"processes": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_told(scenes, tmp_path, capsys, wrong):
    with pytest.raises(SystemExit):
        run(MakeFits(scenes, tmp_path / "out", **wrong))
    assert f"--{next(iter(wrong))} is " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_the_command_and_loses_nothing(scenes, tmp_path, monkeypatch, capsys, quick):
    run(MakeFits(scenes, tmp_path, fits=1))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path, fit):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(make, "write_fit", full)
    with pytest.raises(SystemExit):
        run(MakeFits(scenes, tmp_path, fits=2))
    told = " ".join(capsys.readouterr().err.split())
    assert "No space left" in told and "run the same command again" in told
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_unit_that_fails_is_reported_and_stops_no_other(scenes, tmp_path, quick, capsys):
    bad = tmp_path / "scenes" / "bad.safetensors"
    bad.parent.mkdir()
    bad.write_bytes(b"no scene")
    good = Unit(scenes / "scene_00001.safetensors", 0)
    outcomes = list(run_units([Unit(bad, 0), good], TINY, tmp_path / "out"))
    assert outcomes[0].name == "bad_fit000" and not outcomes[0].done and outcomes[0].failure
    assert outcomes[1] == Outcome("scene_00001_fit000", True)
    assert list(run_units([good], TINY, tmp_path / "out")) == [Outcome("scene_00001_fit000", False)]
    with pytest.raises(SystemExit):
        run(MakeFits(bad.parent, tmp_path / "out", fits=1))
    told = capsys.readouterr()
    assert "bad_fit000" in told.out and "1 of 1 fits failed" in " ".join(told.err.split())


@pytest.mark.slow
def test_processes_write_what_one_process_writes(scenes, tmp_path):
    """With the bundled estimator; so small that most drawn fits take seconds."""
    recipe = fanout.Recipe(side=32, frames=4, points=60, splats=80)
    units = [Unit(scenes / f"scene_0000{i}.safetensors", 0) for i in (1, 2)]
    alone, together = tmp_path / "alone", tmp_path / "together"
    first = {outcome.name: outcome.failure for outcome in run_units(units, recipe, alone)}
    assert {o.name: o.failure for o in run_units(units, recipe, together, processes=2)} == first
    for name, failure in first.items():
        assert not failure
        assert (alone / f"{name}.safetensors").read_bytes() == (together / f"{name}.safetensors").read_bytes()


def test_an_output_that_cannot_be_made_is_told(scenes, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"):
        list(run_units([Unit(scenes / "scene_00001.safetensors", 0)], TINY, tmp_path / "file" / "sub"))
