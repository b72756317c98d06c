"""Training on the make-believe device: rounds, growth, rollback, resume; waits of the host per step."""

from __future__ import annotations

from simulated_cuda import SimTensor
from simulated_runs import small, splats, started, take_steps

from genfusion_ns.plugin.config import gpu_config

ONE_CLIP = {"trajectories": ("orbit",), "frames": 2, "clip_length": 2, "max_side": 24, "skip_covered": 2.0}


def assert_all_on_device(trainer) -> None:
    """Parameters, statistics and moments, to the last one."""
    model = trainer.pipeline.model
    tensors = {**model.gauss_params, **model.densifier_state}
    for name, optimizer in trainer.optimizers.optimizers.items():
        for moments in optimizer.state.values():
            tensors |= {f"{name} {key}": value for key, value in moments.items()}
    assert len(tensors) >= 6 + 7 + 18
    assert [name for name, value in tensors.items() if not isinstance(value, SimTensor)] == []


def test_the_gpu_preset_trains_with_rounds_and_growth(gpu, scene, tmp_path):
    config = small(gpu_config("genfusion"), scene, tmp_path, loop=ONE_CLIP)
    assert config.machine.device_type == "cuda"
    trainer = started(config)
    assert trainer.pipeline.model.rasterizer.name == "gsplat"
    take_steps(trainer, 0, 19)
    grown = trainer.pipeline.model.num_points
    assert grown > 392
    take_steps(trainer, 19, 24)
    (report,) = trainer.pipeline.datamanager.loop_state.reports
    assert report.admitted > 0 and report.added > 0
    assert_all_on_device(trainer)
    assert all(value.isfinite().all() for value in splats(trainer).values())


def test_a_round_that_is_taken_back_does_not_stop_training(gpu, scene, tmp_path, monkeypatch):
    monkeypatch.setattr("genfusion_ns.loop.accept.judge", lambda before, after, tolerance: "rolled back")
    loop = {**ONE_CLIP, "start": 4, "every": 4}
    trainer = started(small(gpu_config("genfusion"), scene, tmp_path, loop=loop))
    take_steps(trainer, 0, 10)
    assert [report.outcome for report in trainer.pipeline.datamanager.loop_state.reports] == ["rolled back", "open"]
    assert_all_on_device(trainer)
