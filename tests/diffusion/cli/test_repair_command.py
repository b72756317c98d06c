"""The command line: `python -m diffusion repair`, without Nerfstudio."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import LITE, clip, repaired, seeded, tiny_pipeline

from diffusion import __main__ as cli
from diffusion import configurations
from diffusion.cli.preview import TITLE_HEIGHT
from diffusion.inputs.clips import windows
from diffusion.memory.blueprint import read_blueprint
from diffusion.memory.memory_plan import Run, plan_memory

FRAMES, HEIGHT, WIDTH = 5, 20, 28


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    arrays = {key: value.numpy() for key, value in clip(0, FRAMES, HEIGHT, WIDTH).items()}
    path = tmp_path / "clip.npz"
    np.savez(path, **{("reference" if key == "references" else key): value for key, value in arrays.items()})
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    tiny_pipeline().save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command, with its lines unwrapped."""
    monkeypatch.setattr(sys, "argv", ["genfusion-repair", *map(str, arguments)])
    status = 0
    try:
        cli.main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.slow
@pytest.mark.parametrize("word", [["repair"], []])
def test_it_repairs_a_clip_as_the_pipeline_does(monkeypatch, capsys, npz, weights, tmp_path, word):
    out = tmp_path / "out"
    status, text, _ = run(monkeypatch, capsys, *word, "--clip", npz, "--out", out, "--weights", weights, "--steps", 2)
    assert status == 0
    # The plan comes before anything else.
    assert text.index("peak") < text.index("frames in")
    with np.load(out / "repaired.npz") as stored:
        rgb, disparity = stored["rgb"], stored["disparity"]
    pipe = tiny_pipeline()
    pipe.use_channels_last()
    wanted = repaired(pipe, **clip(0, FRAMES, HEIGHT, WIDTH))
    assert np.allclose(rgb, wanted.rgb.numpy(), atol=1e-3)
    assert np.allclose(disparity, wanted.disparity.numpy(), atol=1e-4)
    assert sorted(p.name for p in (out / "rgb").iterdir()) == [f"{i:04d}.png" for i in range(FRAMES)]
    assert len(list((out / "disparity").iterdir())) == FRAMES
    with Image.open(out / "side_by_side.png") as sheet:
        assert sheet.size == (4 * WIDTH, FRAMES * (HEIGHT + TITLE_HEIGHT))
    assert "from the left: rendering, repaired, its depth, repaired depth" in text and "no depth" not in text
    assert text.count("MiB") == 1  # one line of the memory plan; --plan-only shows all
    assert (out / "side_by_side.mp4").is_file()


@pytest.mark.slow
def test_a_clip_without_depth_says_what_to_expect(monkeypatch, capsys, weights, tmp_path):
    c = clip(0, FRAMES, HEIGHT, WIDTH)
    np.savez(tmp_path / "clip.npz", rgb=c["rgb"].numpy(), reference=c["references"][0].numpy())
    out = tmp_path / "out"
    status, text, error = run(
        monkeypatch, capsys, "--clip", tmp_path / "clip.npz", "--out", out, "--weights", weights, "--steps", 2
    )
    assert status == 0 and "the clip has no depth" in text
    assert "from the left: rendering, repaired, repaired depth" in text
    assert "Loading pipeline" not in error and "torch_dtype" not in error


@pytest.mark.slow
def test_a_folder_of_frames_at_another_size_with_a_photo(monkeypatch, capsys, weights, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(2):
        Image.fromarray(np.full((16, 16, 3), 40 * i, np.uint8)).save(frames / f"f{i}.png")
    Image.fromarray(np.full((9, 9, 3), 80, np.uint8)).save(tmp_path / "photo.png")
    arguments = ["--clip", frames, "--out", tmp_path / "o", "--weights", weights, "--steps", 1, "--size", 24, 32]
    status, _, error = run(monkeypatch, capsys, *arguments)
    assert status == 2 and "no reference photo" in error and "--reference PHOTO" in error
    status, _, _ = run(monkeypatch, capsys, *arguments, "--reference", tmp_path / "photo.png")
    assert status == 0
    with Image.open(tmp_path / "o" / "rgb" / "f1.png") as image:
        assert image.size == (32, 24)


@pytest.mark.slow
def test_long_clips_are_repaired_window_by_window(monkeypatch, capsys, npz, weights, tmp_path):
    status, _, _ = run(
        monkeypatch,
        capsys,
        *("--clip", npz, "--out", tmp_path / "out", "--weights", weights, "--steps", 1, "--window", 2, "--seed", 7),
    )
    assert status == 0
    with np.load(tmp_path / "out" / "repaired.npz") as stored:
        rgb = stored["rgb"]
    c = clip(0, FRAMES, HEIGHT, WIDTH)
    pipe = tiny_pipeline()
    pipe.use_channels_last()
    parts = []
    for start, first_new in ((0, 0), (2, 2), (3, 4)):
        part = slice(start, start + 2)
        output = pipe(
            c["rgb"][part], c["depth"][part], None, c["references"], num_inference_steps=1, generator=seeded(7)
        )
        parts.append(output.rgb[first_new - start :])
    assert np.allclose(rgb, torch.cat(parts).numpy(), atol=1e-3)


@pytest.mark.slow
def test_a_window_beyond_the_budget_is_shortened_and_told(monkeypatch, capsys, weights, tmp_path):
    arrays = {key: value.numpy() for key, value in clip(0, 8, HEIGHT, WIDTH).items()}
    arrays["reference"] = arrays.pop("references")
    np.savez(tmp_path / "clip.npz", **arrays)
    whole = Run(8, HEIGHT, WIDTH, steps=1, guidance=False, references=2)
    budget = plan_memory(read_blueprint(weights), whole, budget=1).peak - 1
    found = []
    for name, options in (("short", ("--memory-budget", budget)), ("window", ("--window", 4))):
        command = ("--clip", tmp_path / "clip.npz", "--out", tmp_path / name, "--weights", weights, "--steps", 1)
        status, text, _ = run(monkeypatch, capsys, *command, *options)
        assert status == 0 and ("so 4 frames are repaired at a time" in text) == (name == "short")
        with np.load(tmp_path / name / "repaired.npz") as stored:
            found.append(stored["rgb"])
    assert len(found[0]) == 8 and np.allclose(*found, atol=1e-4)


@pytest.mark.parametrize("length", [1, 4, 16])
@pytest.mark.parametrize("frames", [1, 3, 16, 17, 33, 48])
def test_windows_give_every_frame_once(frames, length):
    covered = []
    for start, first_new in windows(frames, length):
        assert start >= 0 or frames < length
        assert start + length <= max(frames, length)
        covered += range(first_new, min(start + length, frames))
    assert covered == list(range(frames))


@pytest.mark.slow
def test_only_the_plan(monkeypatch, capsys, npz, tmp_path):
    status, text, _ = run(
        monkeypatch,
        capsys,
        *("--clip", npz, "--out", tmp_path / "out", "--random-weights", "official", "--plan-only"),
    )
    assert status == 0 and "official: 5 frames of 28x20" in text and "activations" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_random_weights_are_labelled(monkeypatch, capsys, npz, tmp_path):
    monkeypatch.setitem(configurations.CONFIGURATIONS, LITE.name, LITE)
    status, text, _ = run(monkeypatch, capsys, "--clip", npz, "--out", tmp_path / "out", "--random-weights", LITE.name)
    assert status == 0 and "RANDOM WEIGHTS" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "official"], "genfusion-convert"),
        (["--weights", "nonsense"], "'nonsense'"),
        (["--random-weights", "huge"], "'huge'; expected one of official, lite"),
        (["--random-weights", "lite", "--memory-budget", "1MiB"], "budget is 1 MiB"),
        (["--random-weights", "lite", "--memory-budget", "lots"], "'lots' is no amount of memory"),
        (["--random-weights", "lite", "--device", "quantum"], "'quantum'"),
        (["--random-weights", "lite", "--window", "0"], "--window is 0"),
        (["--random-weights", "lite", "--size", "0", "8"], "--size is (0, 8)"),
        (["--random-weights", "lite", "--steps", "-4"], "--steps is -4; expected at least 1"),
        (["--random-weights", "lite", "--steps", "0"], "--steps is 0; expected at least 1"),
        (["--random-weights", "lite", "--guidance-scale", "nan"], "--guidance-scale is nan"),
        (["--random-weights", "lite", "--reference", "nowhere.png"], "nowhere.png is no readable image"),
    ],
)
def test_mistakes_end_with_status_2_and_one_line(monkeypatch, capsys, npz, tmp_path, arguments, message):
    status, _, error = run(monkeypatch, capsys, "--clip", npz, "--out", tmp_path / "out", *arguments)
    assert status == 2
    assert error.startswith("error:") and message in error and error.count("\n") == 1


@pytest.mark.parametrize("inside", ["", "sub/folder"])
def test_an_output_folder_that_cannot_be_written_is_told_before_the_work(monkeypatch, capsys, tmp_path, inside):
    (tmp_path / "out").write_text("a file in the way")
    out = tmp_path / "out" / inside
    status, text, error = run(monkeypatch, capsys, "--clip", tmp_path / "nothing is read", "--out", out)
    assert status == 2 and f"can't write to {out}: {tmp_path / 'out'} is a file" in error and text == ""


@pytest.mark.slow
def test_as_a_module_it_needs_no_nerfstudio_and_no_traceback(tmp_path):
    for name in ("nerfstudio", "genfusion_ns"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was imported')")
    search = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "diffusion", "repair", "--clip", str(tmp_path / "none"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": search})
    assert done.returncode == 2, done.stderr
    assert "does not exist" in done.stderr and "Traceback" not in done.stderr
