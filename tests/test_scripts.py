"""The shell scripts and the benchmark's and the demo's Python, as far as they can be tested without installing."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

REPO = Path(__file__).resolve().parents[1]
SHELL = ("scripts/setup", "scripts/demo", "scripts/test", ".ci/run")

sys.path.insert(0, str(REPO / "scripts"))
import benchmark  # noqa: E402
import benchmark_row  # noqa: E402
import demo_run  # noqa: E402

from genfusion_ns.errors import UserError  # noqa: E402


def bash(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("script", SHELL)
def test_shell_scripts_parse_and_can_be_executed(script):
    assert os.access(REPO / script, os.X_OK)
    assert bash(["bash", "-n", str(REPO / script)], REPO).returncode == 0


@pytest.fixture
def spaced_copy(tmp_path) -> Path:
    """The checkout's set-up files in a folder with spaces in its name."""
    copy = tmp_path / "my own repos" / "gen fusion"
    (copy / "scripts").mkdir(parents=True)
    for name in ("setup", "demo", "test", "constraints.txt", "mend_torchvision.py"):
        shutil.copy(REPO / "scripts" / name, copy / "scripts" / name)
    shutil.copy(REPO / "pyproject.toml", copy)
    return copy


def test_setup_names_one_environment_per_checkout(spaced_copy, tmp_path):
    ours = {"GENFUSION_VENV": "", "XDG_CACHE_HOME": str(tmp_path / "a cache")}
    there = bash([str(spaced_copy / "scripts/setup"), "--where"], Path("/"), **ours).stdout.strip()
    again = bash(["scripts/setup", "--where"], spaced_copy, **ours).stdout.strip()
    other = bash([str(REPO / "scripts/setup"), "--where"], Path("/"), **ours).stdout.strip()
    assert there == again != other
    assert Path(there).parent == tmp_path / "a cache" / "genfusion"
    named = bash(["scripts/setup", "--where"], spaced_copy, GENFUSION_VENV="my venv").stdout.strip()
    assert named == str(spaced_copy / "my venv")


def test_setup_check_reports_and_changes_nothing(spaced_copy, tmp_path):
    venv = tmp_path / "a venv"
    check = bash([str(spaced_copy / "scripts/setup"), "--check"], Path("/"), GENFUSION_VENV=str(venv))
    assert check.returncode == 1 and "not set up yet" in check.stdout and str(venv) in check.stdout
    assert not venv.exists()


def fake_python(folder: Path, on_pip: str) -> Path:
    """A program that makes virtual environments of itself, does `on_pip` for pip, and succeeds at all else."""
    program = folder / "fake python"
    program.write_text(
        "#!/bin/bash\n"
        "if [[ $1 == -m && $2 == venv ]]; then\n"
        '  mkdir -p "$3/bin" "$3/lib/python3/site-packages"; cp "$0" "$3/bin/python"\n'
        f"elif [[ $1 == -m && $2 == pip ]]; then {on_pip}\nfi\n"
    )
    program.chmod(0o755)
    return program


def test_setup_stamp_follows_the_recipe(spaced_copy, tmp_path):
    """A finished environment counts as up to date until a file that it was made from changes; nothing is installed."""
    venv = tmp_path / "a venv"
    pip_calls = tmp_path / "pip calls"
    fake = fake_python(tmp_path, f'echo "$@" >>"{pip_calls}"')
    ours = {"GENFUSION_VENV": str(venv), "GENFUSION_PYTHON": str(fake)}
    setup = [str(spaced_copy / "scripts/setup")]

    first = bash(setup, Path("/"), **ours)
    assert first.returncode == 0 and "done" in first.stdout, first.stderr + first.stdout
    calls = pip_calls.read_text()
    assert "-e" in calls and "constraints.txt" in calls and "gen fusion[dev]" in calls

    second = bash(setup, Path("/"), **ours)
    assert second.returncode == 0 and "up to date" in second.stdout
    assert pip_calls.read_text() == calls
    assert bash([*setup, "--check"], Path("/"), **ours).returncode == 0

    with (spaced_copy / "scripts/constraints.txt").open("a") as stream:
        stream.write("# changed\n")
    assert bash([*setup, "--check"], Path("/"), **ours).returncode == 1
    assert bash(setup, Path("/"), **ours).returncode == 0
    assert len(pip_calls.read_text()) > len(calls)


def test_setup_fails_with_a_reason_when_pip_fails(spaced_copy, tmp_path):
    fake = fake_python(tmp_path, "[[ $3 != install ]] || { echo no such index; exit 1; }")
    venv = tmp_path / "venv"
    ours = {"GENFUSION_VENV": str(venv), "GENFUSION_PYTHON": str(fake)}
    failed = bash([str(spaced_copy / "scripts/setup")], Path("/"), **ours)
    assert failed.returncode == 1
    assert "trying without them" in failed.stdout
    assert "no such index" in failed.stderr and "pip could not install genfusion" in failed.stderr
    assert bash([str(spaced_copy / "scripts/setup"), "--check"], Path("/"), **ours).returncode == 1


def test_setup_refuses_what_it_does_not_know(tmp_path):
    unknown = bash([str(REPO / "scripts/setup"), "--frobnicate"], tmp_path)
    assert unknown.returncode == 2 and "usage" in unknown.stderr


@pytest.mark.parametrize("script", ["setup", "test"])
def test_shell_scripts_explain_themselves(script, tmp_path):
    shown = bash([str(REPO / "scripts" / script), "--help"], tmp_path)
    assert shown.returncode == 0 and "usage: scripts/" in shown.stdout


@pytest.mark.parametrize("script", ["benchmark.py", "demo_run.py"])
def test_python_scripts_explain_themselves(script, tmp_path):
    shown = bash([sys.executable, str(REPO / "scripts" / script), "--help"], tmp_path)
    assert shown.returncode == 0 and "--steps" in shown.stdout or "--scenes" in shown.stdout


# -- the benchmark -------------------------------------------------------------------------------------------------


@pytest.fixture
def data_root(tmp_path) -> Path:
    for name in ("pond", "attic"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "train_test_split_3.json").write_text("{}")
    (tmp_path / "data" / "points only").mkdir()
    return tmp_path / "data"


def test_benchmark_makes_every_combination_once(data_root):
    args = benchmark.Benchmark(data_root=data_root, splits=("all", "3"), max_num_iterations=9)
    rows = benchmark.rows_of(args, has_cuda=False)
    assert [(Path(r.scene).name, r.split, r.method) for r in rows] == [
        (scene, split, method)
        for scene in ("attic", "pond")
        for split in ("all", "3")
        for method in ("2dgs", "genfusion-identity")
    ]
    with_cuda = benchmark.rows_of(args, has_cuda=True)
    assert {r.method for r in with_cuda} == {"2dgs", "genfusion-identity", "splatfacto"}


def test_benchmark_refuses_what_cannot_run(data_root, tmp_path):
    with pytest.raises(UserError, match="no such scene folder.*lake.*--data-root"):
        benchmark.rows_of(benchmark.Benchmark(scenes=("pond", "lake"), data_root=data_root), has_cuda=False)
    with pytest.raises(UserError, match="holds no scene"):
        benchmark.rows_of(benchmark.Benchmark(data_root=tmp_path / "empty"), has_cuda=False)
    with pytest.raises(UserError, match="splatfacto needs CUDA"):
        benchmark.rows_of(benchmark.Benchmark(data_root=data_root, methods=("splatfacto",)), has_cuda=False)


def finished_row(row: benchmark_row.Row, **metrics: float) -> dict[str, object]:
    costs = {"minutes": 1.0, "peak_memory_mib": 900.0, "peak_gpu_memory_mib": None, "gaussians": 1234}
    return {**vars(row), "max_num_iterations": 7, "ssim": 0.5, "coverage": 1.0, **costs, **metrics}


def test_benchmark_reads_rows_back_and_notices_other_settings_and_code(data_root, tmp_path, monkeypatch):
    args = benchmark.Benchmark(data_root=data_root, out=tmp_path / "out", weights=tmp_path)
    row = benchmark.rows_of(args, has_cuda=False)[0]
    calls: list[list[str]] = []

    def train(command, **_kwargs):
        calls.append(command)
        Path(command[3]).write_text(json.dumps(finished_row(row, psnr=20.0 + len(calls))))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(benchmark.subprocess, "run", train)
    console = Console(quiet=True)
    first = benchmark.measured(row, args, "code1", console)
    assert first is not None and first["psnr"] == 21.0 and first["code"] == "code1"
    assert benchmark.measured(row, args, "code1", console) == first and len(calls) == 1
    other = benchmark_row.Row(**{**vars(row), "seed": 1})
    for changed in (benchmark.measured(other, args, "code1", console), benchmark.measured(row, args, "code2", console)):
        assert changed is not None and changed["psnr"] > 21.0
    args.fresh = True
    assert benchmark.measured(row, args, "code1", console) != first


def test_benchmark_shows_the_end_of_a_failed_rows_log(data_root, tmp_path, monkeypatch, capsys):
    args = benchmark.Benchmark(data_root=data_root, out=tmp_path / "out", weights=tmp_path)

    def crash(command, stdout, **_kwargs):
        stdout.write("Traceback\nValueError: too dark\n")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(benchmark.subprocess, "run", crash)
    assert benchmark.measured(benchmark.rows_of(args, False)[0], args, "code", Console()) is None
    assert "ValueError: too dark" in capsys.readouterr().out


def test_benchmark_table_says_na_without_lpips(data_root):
    row = benchmark.rows_of(benchmark.Benchmark(data_root=data_root), has_cuda=False)[0]
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(benchmark.table_of([finished_row(row, psnr=23.456), finished_row(row, psnr=9.0, lpips=0.4321)]))
    text = console.export_text()
    assert "23.46" in text and "n/a" in text and "0.432" in text and "1,234" in text


def test_benchmark_rows_give_all_methods_the_same_views(data_root, tmp_path):
    pytest.importorskip("nerfstudio")
    configs = {
        method: benchmark_row.trainer_config(
            benchmark_row.Row(str(data_root / "pond"), "3", method, 50, 64, 1), tmp_path
        )
        for method in benchmark_row.METHODS
    }
    views = {
        m: (c.pipeline.datamanager.dataparser.sparse_views, c.pipeline.datamanager.max_image_side)
        for m, c in configs.items()
    }
    assert set(views.values()) == {(3, 64)}
    assert {m: c.pipeline.datamanager.loop.every > 0 for m, c in configs.items()} == {
        "2dgs": False,
        "genfusion-identity": True,
        "splatfacto": False,
    }
    assert all(c.max_num_iterations == 50 for c in configs.values())


# -- the demo ------------------------------------------------------------------------------------------------------


def test_demo_trains_with_the_command_that_a_user_would_type(tmp_path):
    args = demo_run.Demo(out=tmp_path, few=3, steps=77, few_steps=55)
    commands = [demo_run.train_command(case, tmp_path / "scene", tmp_path) for case in demo_run.cases(args)]
    assert all(command[1:4] == ["genfusion", "--data", str(tmp_path / "scene")] for command in commands)
    assert [command[command.index("--max-num-iterations") + 1] for command in commands] == ["77", "55", "55"]
    sparse = [command[-3:] for command in commands[1:]]
    assert sparse == [["genfusion-data", "--sparse-views", "3"]] * 2
    assert ["--pipeline.datamanager.loop.every" in command for command in commands] == [True, True, False]


def test_demo_follows_a_training_and_shows_why_it_failed(tmp_path):
    console = Console(record=True, width=100, file=io.StringIO())
    talk = "print('noise'); print('genfusion: two splats.'); print('50 (50.00%)   3 ms', flush=True)"
    demo_run.follow([sys.executable, "-c", talk], tmp_path / "log", "good", 100, console)
    assert "50 (50.00%)" in (tmp_path / "log").read_text()
    said = console.export_text(clear=False)
    assert "genfusion: two splats." in said and "noise" not in said
    with pytest.raises(UserError, match="'bad' failed with exit code 3.*log"):
        demo_run.follow([sys.executable, "-c", "print('ouch'); exit(3)"], tmp_path / "log", "bad", 100, console)
    assert "ouch" in console.export_text()
