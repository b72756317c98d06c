"""The whole chain that makes the shipped weights, at toy size: scenes, fits, training, a pipeline, evaluation."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny_networks import FUSION_ARGUMENTS
from tiny_scenes import tiny_scene

from diffusion.models.fusion import FusionNetwork
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.train import fusion
from diffusion.train.fit_clips import Window
from diffusion.train.fusion import FusionConfig
from genfusion_ns.commands.make_fits import MakeFits
from genfusion_ns.commands.make_fits import run as make_fits
from genfusion_ns.training_data import make


@pytest.mark.slow
def test_from_scenes_to_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts" / "eval"))
    monkeypatch.setattr(make, "fit_steps", lambda *_: [3, 9])
    tiny_scene(tmp_path / "scenes")
    fits = tmp_path / "fits"
    make_fits(MakeFits(tmp_path / "scenes", fits, fits=2, side=40))

    small = FusionNetwork
    monkeypatch.setattr(fusion, "FusionNetwork", lambda: small(**FUSION_ARGUMENTS))
    monkeypatch.setattr(fusion, "SMALL_WINDOWS", (Window(3, 16, 24),))
    output = tmp_path / "training"
    fusion.train(FusionConfig(fits=fits, output=output, steps=2, perceptual_weight=0.0))
    weights = tmp_path / "weights"
    RGBDVideoRepairPipeline(fusion=small.from_pretrained(output / "fusion")).save_pretrained(weights)

    monkeypatch.delitem(sys.modules, "repair", raising=False)  # scripts/bench has one too
    import repair as eval_repair

    monkeypatch.setattr(eval_repair, "Perceptual", lambda *_: None)
    scores = tmp_path / "scores"
    eval_repair.main(eval_repair.Options(fits=(fits,), methods=("classical", str(weights)), output=scores, threads=1))
    found = json.loads((scores / "scores.json").read_text())
    for kind in found["means"].values():
        assert set(kind) == {"input", "classical", str(weights)}
        assert kind["input"]["gain"] == 0
    rows = found["clips"][str(weights)]
    assert len(rows) == 4 and all(row["psnr"] > 3 for row in rows)
    assert all(sum(share for share, _, _ in row["calibration"]) == pytest.approx(1) for row in rows)
    assert len(list((scores / "sheets").iterdir())) == 2 * 4
    assert "| classical |" in (scores / "table.md").read_text()
    assert "scores and contact sheets are in" in capsys.readouterr().out
    sys.modules.pop("repair")
