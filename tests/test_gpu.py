"""Which torch is chosen for which driver, on recorded outputs of nvidia-smi, and what is said where torch is blind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from genfusion_ns import gpu

REPO = Path(__file__).resolve().parents[1]

LISTED = "GPU 0: NVIDIA GeForce RTX 3090 (UUID: GPU-4a1c6a0e-0000-0000-0000-000000000000)\n"


def recorded(driver: str, cuda: str) -> str:
    """The head of what nvidia-smi prints."""
    line = f"| NVIDIA-SMI {driver}    Driver Version: {driver}    CUDA Version: {cuda}     |"
    return f"Wed Nov 25 12:00:00 2026\n+{'-' * 78}+\n{line}\n|{'-' * 31}+\n|   0  NVIDIA GeForce RTX 3090  Off |\n"


FAILED = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
DRIVERS = [
    ("", None, None),
    (FAILED, None, None),
    (recorded("390.157", "9.1"), None, None),
    (recorded("470.256.02", "11.4"), "2.7.1+cu118", "11.8"),
    (recorded("535.183.01", "12.2"), "2.6.0", "12.4"),
    (recorded("550.90.07", "12.4"), "2.6.0", "12.4"),
    (recorded("570.86.15", "12.8"), "2.10.0", "12.8"),
    (recorded("580.65.06", "13.0"), "2.13.0", "13.0"),
    (recorded("595.10", "13.2"), "2.13.0", "13.0"),
]


@pytest.mark.parametrize(("smi", "torch", "cuda"), DRIVERS)
def test_torch_follows_the_driver(smi, torch, cuda):
    build = gpu.choose_build(smi)
    assert (build and build.torch, build and build.cuda) == (torch, cuda)


def test_the_newest_build_is_the_tested_one():
    constraints = (REPO / "scripts" / "constraints.txt").read_text().splitlines()
    assert gpu.BUILDS[0].requirements() == [line for line in constraints if line.startswith("torch")]
    assert [build.driver for build in gpu.BUILDS] == sorted((build.driver for build in gpu.BUILDS), reverse=True)


def test_the_old_build_brings_its_index():
    build = gpu.choose_build(recorded("470.256.02", "11.4"))
    assert build is not None
    assert build.requirements()[-2:] == ["--extra-index-url", "https://download.pytorch.org/whl/cu118"]


def test_the_file_runs_alone_and_prints_what_pip_needs():
    """As scripts/setup calls it: without any package."""

    def run(smi: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(REPO / "genfusion_ns" / "gpu.py")]
        return subprocess.run(command, input=smi, capture_output=True, text=True)

    done = run(recorded("550.90.07", "12.4"))
    assert (done.returncode, done.stdout) == (0, "torch==2.6.0 torchvision==0.21.0\n")
    assert (run(FAILED).returncode, run(FAILED).stdout) == (1, "")


def test_a_gpu_that_torch_cannot_use_is_named_with_what_to_do():
    text = gpu.advice(LISTED, recorded("550.90.07", "12.4"), "2.13.0", "13.0")
    assert text is not None
    assert "NVIDIA GeForce RTX 3090, driver 550" in text and "torch 2.13.0, built for CUDA 13.0" in text
    assert "pip install torch==2.6.0 torchvision==0.21.0" in text
    blind = gpu.advice(LISTED, recorded("580.65.06", "13.0"), "2.13.0+cpu", None)
    assert blind is not None and "built without CUDA" in blind and "torch==2.13.0" in blind
    old = gpu.advice(LISTED, recorded("390.157", "9.1"), "2.13.0", "13.0")
    assert old is not None and "update the NVIDIA driver to 525" in old
    assert gpu.advice("", "", "2.13.0", None) is None


def stub_nvidia_smi(folder: Path, driver: str = "550.90.07") -> Path:
    """A program that answers as nvidia-smi does."""
    program = folder / "nvidia-smi"
    (folder / "smi.txt").write_text(recorded(driver, "12.4"))
    program.write_text(
        f"#!/bin/bash\ncase $1 in -L) echo '{LISTED.strip()}' ;; --query-gpu*) echo {driver} ;; "
        f'*) cat "{folder}/smi.txt" ;; esac\n'
    )
    program.chmod(0o755)
    return program


def test_this_machine_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu.unused_gpu("2.13.0", "13.0") is None
    stub_nvidia_smi(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}{os.pathsep}/bin{os.pathsep}/usr/bin")
    assert "RTX 3090" in str(gpu.unused_gpu("2.13.0", "13.0"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.unused_gpu("2.13.0", "13.0") is None  # hidden on purpose


@pytest.mark.slow
def test_the_plugin_warns_once_where_there_is_a_gpu_that_torch_cannot_use(tmp_path):
    stub_nvidia_smi(tmp_path)
    code = "import genfusion_ns.plugin.config, genfusion_ns.plugin.config as again"
    paths = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPO)}
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"} | paths
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert " ".join(done.stdout.split()).count("genfusion: this machine has a GPU (NVIDIA GeForce RTX 3090") == 1


@pytest.mark.slow
def test_setup_installs_what_the_driver_runs_and_says_if_torch_is_blind(tmp_path):
    import shutil

    copy, pip_calls = tmp_path / "repo", tmp_path / "pip calls"
    (copy / "scripts").mkdir(parents=True)
    (copy / "genfusion_ns").mkdir()
    for name in ("setup", "constraints.txt", "mend_torchvision.py"):
        shutil.copy(REPO / "scripts" / name, copy / "scripts" / name)
    shutil.copy(REPO / "genfusion_ns" / "gpu.py", copy / "genfusion_ns")
    shutil.copy(REPO / "pyproject.toml", copy)
    stub_nvidia_smi(tmp_path)
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/bash\n"
        "if [[ $1 == -m && $2 == venv ]]; then\n"
        '  mkdir -p "$3/bin" "$3/lib/python3/site-packages"; cp "$0" "$3/bin/python"\n'
        f'elif [[ $1 == -m && $2 == pip ]]; then echo "$@" >>"{pip_calls}"\n'
        f'elif [[ $1 == *gpu.py ]]; then exec "{sys.executable}" -I "$1"\n'
        "elif [[ $2 == *is_available* ]]; then exit 1\nfi\n"
    )
    fake.chmod(0o755)
    environment = {**os.environ, "GENFUSION_VENV": str(tmp_path / "venv"), "GENFUSION_PYTHON": str(fake)}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([str(copy / "scripts/setup")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "torch==2.6.0 torchvision==0.21.0" in pip_calls.read_text()
    constraints = (tmp_path / "venv" / "genfusion-constraints.txt").read_text()
    assert "numpy==" in constraints and "torch==" not in constraints
    assert "torch can't use the GPU" in done.stdout and "run scripts/setup again" in done.stdout
