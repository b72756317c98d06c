"""The CUDA compiler that gsplat builds its kernels with: where it is, and whether it fits torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def compiler_folders(environment: Mapping[str, str]) -> list[Path]:
    """Where nvcc may be, besides the PATH: the toolkit's own variables and folder, and pip's packages of it."""
    named = [environment[name] for name in ("CUDA_HOME", "CUDA_PATH") if environment.get(name)]
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    return [Path(home) / "bin" for home in (*named, "/usr/local/cuda", packages / "cu13", packages / "cuda_nvcc")]


def find_compiler(environment: Mapping[str, str]) -> Path | None:
    """nvcc on the PATH, or in one of `compiler_folders`."""
    search = [environment.get("PATH", ""), *map(str, compiler_folders(environment))]
    found = shutil.which("nvcc", path=os.pathsep.join(search))
    return Path(found) if found else None


def compiler_release(text: str) -> str | None:
    """'12.4' from the output of `nvcc --version`."""
    found = re.search(r"release (\d+\.\d+)", text)
    return found[1] if found else None


def mismatch(release: str | None, torch_cuda: str | None) -> str | None:
    """Why a compiler cannot build for this torch, and which can; None where it can. torch asks for the same major
    version."""
    wanted = f"install the CUDA toolkit {torch_cuda} (https://developer.nvidia.com/cuda-toolkit-archive)"
    if torch_cuda is None:
        return "this torch is built without CUDA"
    if release is None:
        return f"gsplat has no CUDA code for this machine, and found no CUDA compiler (nvcc) to build it: {wanted}"
    if release.split(".")[0] != torch_cuda.split(".")[0]:
        return f"the CUDA compiler is of {release}, and torch of CUDA {torch_cuda}, which do not fit: {wanted}"
    return None


def prepare_compiler(torch_cuda: str | None) -> None:
    """Bring nvcc onto this process's PATH, where gsplat looks for it. Raises ImportError: there is none, or it does not
    fit torch."""
    compiler = find_compiler(os.environ)
    release = None
    if compiler is not None:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True)
        release = compiler_release(done.stdout)
    problem = mismatch(release, torch_cuda)
    if problem is not None or compiler is None:
        raise ImportError(problem)
    if shutil.which("nvcc") is None:
        os.environ["PATH"] = f"{compiler.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    name_runtime(compiler.parent.parent / "lib")


def name_runtime(folder: Path) -> None:
    """Make `-lcudart` find the runtime of pip's packages, which bring libcudart.so.13 without the name for linkers."""
    versions, name = sorted(folder.glob("libcudart.so.*")), folder / "libcudart.so"
    if versions and not name.exists():
        with suppress(OSError):  # a folder of somebody else's; the linker then says what it misses
            name.symlink_to(versions[-1].name)
