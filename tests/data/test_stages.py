"""Stages run once, anew after a change, and on from where they were cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from genfusion_ns.data.stages import Stages


class Work:
    """Two stages that count how often they run; each makes one file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran = folder, []

    def __call__(self, first: object = 1, second: object = 1, fail: str = "") -> list[str]:
        stages = Stages(self.folder)
        self.ran = []
        for name, options in (("one", first), ("two", second)):
            result = stages.run(name, options, lambda n=name: self._do(n, fail), [self.folder / f"{name}.out"])
            assert result == {"made": name}
        return stages.skipped

    def _do(self, name: str, fail: str) -> dict[str, str]:
        self.ran.append((name, (self.folder / f"{name}.out").exists()))
        (self.folder / f"{name}.out").touch()
        if name == fail:
            raise KeyboardInterrupt
        return {"made": name}


def test_stages_run_once(tmp_path):
    work = Work(tmp_path)
    assert work() == [] and work.ran == [("one", False), ("two", False)]
    assert work() == ["one", "two"] and work.ran == []


def test_changed_options_clear_and_redo_a_stage_and_those_after_it(tmp_path):
    work = Work(tmp_path)
    work()
    assert work(second=2) == ["one"] and work.ran == [("two", False)]
    assert work(first=2, second=2) == [] and work.ran == [("one", False), ("two", False)]


def test_an_interrupted_stage_continues_on_what_it_left(tmp_path):
    work = Work(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        work(fail="two")
    assert work() == ["one"] and work.ran == [("two", True)]


def test_lost_results_are_made_again_and_what_follows_too(tmp_path):
    work = Work(tmp_path)
    work()
    (tmp_path / "one.out").unlink()
    assert work() == [] and work.ran == [("one", False), ("two", False)]
    assert work() == ["one", "two"]


def test_a_damaged_marker_counts_as_none(tmp_path):
    work = Work(tmp_path)
    work()
    (tmp_path / "two.json").write_text("{")
    assert work() == ["one"] and work.ran == [("two", False)]
