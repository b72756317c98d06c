"""The shell scripts and the demo's Python, as far as they can be tested without installing."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

REPO = Path(__file__).resolve().parents[2]
SHELL = ("scripts/setup", "scripts/demo", "scripts/test", ".ci/run")

sys.path.insert(0, str(REPO / "scripts"))
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_demo_explains_itself_without_installing_anything(spaced_copy, tmp_path):
    """And names the options that the demo has, with their defaults."""
    done = bash(
        [str(spaced_copy / "scripts" / "demo"), "there", "--help"], tmp_path, HOME=str(tmp_path), PATH=os.defpath
    )
    assert done.returncode == 0 and not done.stderr
    assert not (tmp_path / ".cache").exists()
    defaults = demo_run.Demo()
    for name in ("few", "steps", "few_steps", "size", "fresh"):
        value = getattr(defaults, name)
        (line,) = [text for text in done.stdout.splitlines() if text.strip().startswith(f"--{name.replace('_', '-')} ")]
        shown = " ".join(str(part) for part in (value if isinstance(value, tuple) else (value,)))
        assert isinstance(value, bool) or line.endswith(f"({shown})")
    assert {field.name for field in dataclasses.fields(defaults)} == {
        "out",
        "few",
        "steps",
        "few_steps",
        "size",
        "fresh",
    }


@pytest.mark.slow
@pytest.mark.parametrize("call", ["-m genfusion_ns.commands.benchmark", str(REPO / "scripts/demo_run.py")])
def test_python_scripts_explain_themselves(call, tmp_path):
    shown = bash([sys.executable, *call.split(), "--help"], tmp_path)
    assert shown.returncode == 0 and "--steps" in shown.stdout or "--scenes" in shown.stdout


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
