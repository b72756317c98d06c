"""The whole chain that makes the shipped weights, at toy size: pairs, autoencoder, chooser, denoiser, evaluation."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_networks import ONE_STEP

from diffusion.configurations import CONFIGURATIONS
from diffusion.train.command import train_chooser, train_denoiser, train_vae
from diffusion.train.config import ChooserConfig, RepairConfig, Stage, VaeConfig
from genfusion_ns.commands.make_pairs import MakePairs
from genfusion_ns.commands.make_pairs import run as make_pairs


def test_from_an_empty_folder_to_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CONFIGURATIONS, "toy", ONE_STEP)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    pairs = tmp_path / "pairs"
    shared = {"variants": 1, "size": (32, 16), "frames": 4, "clip_length": 4, "splats": 300}
    make_pairs(MakePairs(output=pairs, scenes=2, **shared))
    stages = (Stage(20, frames=4, height=16, width=32),)
    vae = train_vae(VaeConfig(pairs=pairs, output=tmp_path / "vae", configuration="toy", stages=stages))
    chosen = train_chooser(ChooserConfig(pairs=pairs, output=tmp_path / "chooser", start="toy", vae=vae, stages=stages))
    config = RepairConfig(pairs=pairs, output=tmp_path / "denoiser", start=str(chosen))
    folder = train_denoiser(replace(config, val_pairs=pairs, stages=stages, latent_weight=0.0))
    import eval_repair

    eval_repair.main(
        eval_repair.Options(
            pairs=(pairs,), methods=("classical", str(folder)), output=tmp_path / "scores", clips=1, lpips=False
        )
    )
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    (kind,) = scores["means"]
    assert set(scores["means"][kind]) == {"input", "classical", str(folder)}
    assert scores["means"][kind]["input"]["gain"] == 0
    assert all(row["psnr"] > 3 for rows in scores["clips"].values() for row in rows)
    assert (tmp_path / "scores" / "gains.png").stat().st_size > 1000
    assert len(list((tmp_path / "scores" / "sheets").iterdir())) == 3
    assert "scores, plot" in capsys.readouterr().out
    sys.modules.pop("eval_repair")
