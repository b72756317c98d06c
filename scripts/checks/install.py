#!/usr/bin/env python
"""Builds the wheel from the tracked files, installs it into a new environment, and sees that it does what it should.

python scripts/checks/install.py            # minutes, no network: dependencies are borrowed from this environment
python scripts/checks/install.py --full     # pip installs them too (gigabytes), as on a user's machine
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

import numpy as np
import tyro

REPO = Path(__file__).resolve().parents[2]
METHODS = ("genfusion", "genfusion-cpu", "genfusion-gpu", "genfusion-sparse", "genfusion-masked")
WHERE = """
import diffusion, genfusion_ns
from diffusion.loading import bundled_names
from genfusion_ns.stereo.estimator import StereoEstimator
StereoEstimator()
print(genfusion_ns.__file__, diffusion.__file__, *bundled_names(), sep="\\n")
"""


def build(folder: Path) -> Path:
    """The wheel of the files that git tracks; what a checkout holds besides must not be needed."""
    source = folder / "source"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, stdout=subprocess.PIPE, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (REPO / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, source / name)
    isolation = ["--no-deps", "--no-build-isolation"]
    run([sys.executable, "-m", "pip", "wheel", "-q", *isolation, "--wheel-dir", str(folder), str(source)], folder)
    (wheel,) = folder.glob("genfusion_ns-*.whl")
    return wheel


def install(wheel: Path, folder: Path, full: bool) -> Path:
    """The programs of a new environment with the wheel in it."""
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    if not full:
        borrow(next(folder.glob("lib/python*/site-packages")), Path(sysconfig.get_paths()["purelib"]))
    options = [] if full else ["--no-deps", "--no-index"]
    run([str(programs / "python"), "-m", "pip", "install", "-q", *options, str(wheel)], folder)
    return programs


def borrow(packages: Path, lender: Path) -> None:
    """Let an environment find another's packages, with what these hang into the start of Python (the mended
    torchvision), but without its editable installs."""
    (packages / "0-borrowed.pth").write_text(f"{lender}\n")  # read first, since others may import from there
    for file in lender.glob("*.pth"):
        if not file.name.startswith("__editable__"):
            shutil.copy(file, packages / file.name)


def check(programs: Path, folder: Path) -> list[str]:
    """What was found, a line each. Raises RuntimeError where the wheel lacks something."""
    python = str(programs / "python")
    ours, theirs, *weights = run([python, "-c", WHERE], folder).split()
    if not all(Path(path).is_relative_to(programs.parent) for path in (ours, theirs)) or not weights:
        raise RuntimeError(f"expected the wheel's packages and weights, found {ours}, {theirs} and {weights}")
    start = "from nerfstudio.scripts.train import entrypoint; entrypoint()"
    told = run([python, "-c", start, "--help"], folder)
    missing = [name for name in METHODS if name not in told]
    if missing:
        raise RuntimeError(f"ns-train --help does not list {missing}")
    random = np.random.default_rng(0)
    clip = {"rgb": random.random((2, 24, 32, 3)), "depth": 1 + random.random((2, 24, 32, 1))}
    np.savez(folder / "clip.npz", **clip, reference=random.random((24, 32, 3)))
    command = [str(programs / "genfusion-repair"), "--clip", "clip.npz", "--out", "out", "--device", "cpu"]
    run([*command, "--weights", weights[0]], folder)
    with np.load(folder / "out" / "repaired.npz") as repaired:
        if repaired["rgb"].shape != clip["rgb"].shape or not np.isfinite(repaired["rgb"]).all():
            raise RuntimeError(f"genfusion-repair wrote {repaired['rgb'].shape}, expected {clip['rgb'].shape}")
    return [
        f"installed: {Path(ours).parent}",
        f"bundled: {', '.join(weights)}, and the stereo network",
        f"ns-train --help lists {', '.join(METHODS)}",
        f"genfusion-repair repaired 2 frames with {weights[0]}",
    ]


def run(command: list[str], folder: Path) -> str:
    """Its standard output. Raises RuntimeError with what it said, where it fails."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(command, cwd=folder, env={**environment, "COLUMNS": "200"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def main(full: bool = False) -> None:
    """Check the wheel.

    Args:
        full: install the dependencies with pip, instead of borrowing this environment's.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        found = check(install(wheel, folder / "environment", full), folder)
        print(f"{wheel.name}, {wheel.stat().st_size / 2**20:.1f} MiB", *found, sep="\n")


if __name__ == "__main__":
    tyro.cli(main)
