"""Which pairs each row of the repairer's ablation trains on."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def ablate_repair(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    import ablate_repair

    return ablate_repair


@pytest.mark.parametrize(
    ("part", "taken", "left"),
    [
        ("mask share 10 %", ["window10", "polygon10-every2"], ["window50", "corner", "sparse1"]),
        ("mask share 25 %", ["corner-every4", "moving", "window25", "polygon25"], ["polygon10", "sparse2"]),
        ("mask share 50 %", ["polygon50"], ["moving", "sparse5"]),
        ("quadrants and windows", ["corner", "window10-every2", "moving"], ["polygon25", "sparse3"]),
        ("irregular masks", ["polygon50-every4"], ["corner"]),
        ("few photos", ["sparse3"], ["window10"]),
        ("all pairs, RGB", ["corner", "sparse9"], []),
    ],
)
def test_rows_train_on_what_they_are_called(ablate_repair, part: str, taken: list[str], left: list[str]) -> None:
    wanted = ablate_repair.PARTS[part]
    assert all(wanted(variant) for variant in taken)
    assert not any(wanted(variant) for variant in left)
