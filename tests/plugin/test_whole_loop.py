"""Warm-up, rounds with the video model, densification, expansion and evaluation, through Nerfstudio's trainer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_networks import tiny_pipeline

from genfusion_ns.loop import safety
from genfusion_ns.loop.config import DiffusionConfig
from genfusion_ns.loop.repairers.diffusion import fingerprint
from genfusion_ns.loop.supervision import gate, refine
from genfusion_ns.loop.view_buffer import GeneratedViews


def whole_loop(config, weights: Path) -> None:
    """Twenty steps of warm-up, rounds after 20 and 40 of 60 steps, growth every ten."""
    views, model = config.pipeline.datamanager, config.pipeline.model
    views.reference_iterations = model.reference_iterations = 60
    views.loop = replace(
        views.loop,
        repairer="diffusion",
        diffusion=DiffusionConfig(str(weights), steps=2, guidance=1.0),
        start=20,
        every=20,
        until=55,
        frames=4,
        clip_length=4,
        max_side=32,
    )
    densifier = model.densifier
    densifier.start, densifier.stop, densifier.every, densifier.reset_every = 5, 48, 10, 0
    densifier.grow_grad2d, densifier.visible_base, densifier.visible_cap = 1e-6, 2, 4


@pytest.mark.slow
def test_the_whole_loop_with_random_weights(scene, make_config, train, tmp_path, monkeypatch):
    # they paint noise, which the loop would rightly refuse, or take back
    monkeypatch.setattr(refine, "contradiction", lambda *_: (0.0, 1.0))
    monkeypatch.setattr(gate, "DULLER", 1.0)
    monkeypatch.setattr(gate, "TOLERANCE", 100.0)
    monkeypatch.setattr(safety, "CLEARANCE", 0.0)
    weights = tmp_path / "weights"
    tiny_pipeline().save_pretrained(weights)
    config = make_config(scene, max_num_iterations=60)
    whole_loop(config, weights)
    trainer = train(config)
    pipeline = trainer.pipeline
    reports = pipeline.datamanager.loop_state.reports
    assert [report.step for report in reports] == [20, 40]
    assert all(report.clips > 0 and report.admitted > 0 for report in reports)

    frames = GeneratedViews.load(trainer.base_dir / "generated").frames
    assert {frame.provenance.repairer for frame in frames} == {"diffusion"}
    assert {frame.provenance.fingerprint for frame in frames} == {fingerprint(weights)}
    assert {frame.provenance.step for frame in frames} <= {20, 40}

    added = sum(report.added for report in reports)
    assert added > 0
    expanded = int((pipeline.model.densifier_state["from_start"] == 0).sum())
    assert expanded > 0
    assert pipeline.model.num_points - expanded > 396  # those that descend from the first 396 have become more

    assert all(bool(value.isfinite().all()) for value in pipeline.model.gauss_params.values())
    metrics = pipeline.get_average_image_metrics(pipeline.datamanager.fixed_indices_eval_dataloader, "eval")
    assert all(math.isfinite(value) for value in metrics.values())
    assert 5 < metrics["psnr"] < 60
    assert torch.load(next(trainer.checkpoint_dir.iterdir()), weights_only=True)["step"] == 59
