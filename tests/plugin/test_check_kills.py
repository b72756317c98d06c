"""A run that is killed by SIGKILL and resumed ends like an unbroken one, and its pool on disk stays whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from genfusion_ns.loop.view_buffer import GeneratedViews

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "checks" / "kills.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_two_kills_one_in_a_round_change_nothing():
    """In a process of its own, which forks: this one may have threads."""
    few = ["--kills", "2", "--in-rounds", "1", "--steps", "40", "--rounds", "3", "--save-every", "6"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *few], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ended like the unbroken one" in done.stdout


@pytest.mark.slow
def test_a_resumed_run_has_the_whole_pool_in_its_own_folder(scene, make_config, train):
    """Also where no round follows the checkpoint."""

    def config(**overrides):
        made = make_config(scene, max_num_iterations=12, **overrides)
        views = made.pipeline.datamanager
        views.reference_iterations, views.loop.start, views.loop.every, views.loop.until = 12, 3, 3, 8
        views.loop.frames, views.loop.clip_length, views.loop.max_side = 3, 3, 24
        return made

    def on_disk(trainer):
        frames = GeneratedViews.load(trainer.base_dir / "generated").frames
        return [(frame.id, frame.weight, frame.rgb.tolist()) for frame in frames]

    first = train(config(timestamp="first", steps_per_save=9, save_only_latest_checkpoint=False))
    (first.checkpoint_dir / "step-000000011.ckpt").unlink()
    torn = first.base_dir / "generated" / ".frame_000001.safetensors.x.tmp"
    torn.write_bytes(b"half of")
    second = train(config(timestamp="second", load_dir=first.checkpoint_dir))
    assert second._start_step == 10
    assert on_disk(first)
    assert on_disk(first) == on_disk(second)
    assert on_disk(second)[0][1] == second.pipeline.datamanager.loop_state.pool.frames[0].weight
    train(config(timestamp="first", load_dir=first.checkpoint_dir))
    assert not torn.exists()
