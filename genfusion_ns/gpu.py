"""Which torch fits a machine's NVIDIA driver, and whether the torch that is there can use the GPU.

scripts/setup runs this file before anything is installed, so it imports nothing but the standard library:

    nvidia-smi | python genfusion_ns/gpu.py     prints what pip has to install
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Build:
    """A pair of torch and torchvision, and the oldest driver that runs their CUDA."""

    driver: int
    """Least major version of the NVIDIA driver."""
    cuda: str
    """CUDA that they are built with."""
    torch: str
    torchvision: str
    index: str = ""
    """Index of wheels; empty = PyPI's."""

    def requirements(self) -> list[str]:
        """Arguments of `pip install`."""
        wanted = [f"torch=={self.torch}", f"torchvision=={self.torchvision}"]
        return [*wanted, "--extra-index-url", self.index] if self.index else wanted


BUILDS = (
    Build(580, "13.0", "2.13.0", "0.28.0"),
    Build(570, "12.8", "2.10.0", "0.25.0"),
    Build(525, "12.4", "2.6.0", "0.21.0"),  # every driver of CUDA 12 runs every 12.x that it needs not compile for
    Build(450, "11.8", "2.7.1+cu118", "0.22.1+cu118", "https://download.pytorch.org/whl/cu118"),
)
"""The newest first; Linux. Only the first pair is in scripts/constraints.txt, hence tested together with the rest."""


def driver_version(text: str) -> int | None:
    """Major version of the driver, from the output of `nvidia-smi`; None where it names none."""
    found = re.search(r"Driver Version:\s*(\d+)", text)
    return int(found[1]) if found else None


def choose_build(text: str) -> Build | None:
    """The newest build that the driver runs, from the output of `nvidia-smi`; None without a GPU or with a driver that
    is older than all of them."""
    driver = driver_version(text)
    return next((build for build in BUILDS if driver is not None and driver >= build.driver), None)


def advice(gpus: str, smi: str, torch_version: str, torch_cuda: str | None) -> str | None:
    """What to tell a user whose torch sees no GPU; None where there is none to be seen.

    Args:
        gpus: output of `nvidia-smi -L`.
        smi: output of `nvidia-smi`.
        torch_cuda: `torch.version.cuda`.
    """
    names = re.findall(r"^GPU \d+: (.+?)(?: \(UUID.*)?$", gpus, re.MULTILINE)
    if not names:
        return None
    built = f"built for CUDA {torch_cuda}" if torch_cuda else "built without CUDA"
    driver, build = driver_version(smi), choose_build(smi)
    if build is None:
        what = f"update the NVIDIA driver to {BUILDS[-2].driver} or newer"
    else:
        what = (
            f"run: pip install {' '.join(build.requirements())}   (or update the driver: {BUILDS[0].driver} runs all)"
        )
    return (
        f"this machine has a GPU ({names[0]}, driver {driver or 'unknown'}), but torch {torch_version}, {built}, "
        f"cannot use it: everything runs on the CPU, with the small preset. To use the GPU, {what}"
    )


def run_nvidia_smi(*arguments: str) -> str:
    """Its output; empty where there is no such program, or it fails."""
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def unused_gpu(torch_version: str, torch_cuda: str | None) -> str | None:
    """`advice` for this machine, for a process whose torch sees no GPU; None where GPUs are hidden on purpose."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    gpus = run_nvidia_smi("-L")
    return advice(gpus, run_nvidia_smi(), torch_version, torch_cuda) if gpus else None


def main() -> int:
    """Write the requirements for the driver that standard input tells of; exit status 1 if there are none."""
    build = choose_build(sys.stdin.read())
    if build is None:
        return 1
    sys.stdout.write(" ".join(build.requirements()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
