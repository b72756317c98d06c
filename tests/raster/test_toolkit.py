"""Where nvcc is found, and which of them fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from genfusion_ns.raster import toolkit

OUTPUT = (
    "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release {}, V{}.99\nBuild cuda_{}.r/compiler.0\n"
)


def compiler(folder: Path, release: str = "12.4") -> Path:
    folder.mkdir(parents=True)
    program = folder / "nvcc"
    program.write_text(f"#!/bin/bash\ncat <<'TEXT'\n{OUTPUT.format(release, release, release)}TEXT\n")
    program.chmod(0o755)
    return program


@pytest.fixture(autouse=True)
def only_the_test_s_folders(monkeypatch, tmp_path):
    """No toolkit of this machine."""
    original = toolkit.compiler_folders
    own = lambda environment: [f for f in original(environment) if str(f).startswith(str(tmp_path))]  # noqa: E731
    monkeypatch.setattr(toolkit, "compiler_folders", own)
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_it_is_found_on_the_path_and_where_cuda_lives(tmp_path):
    assert toolkit.find_compiler({"PATH": "/bin"}) is None
    for name in ("CUDA_HOME", "CUDA_PATH"):
        home = tmp_path / name
        program = compiler(home / "bin")
        assert toolkit.find_compiler({"PATH": "/bin", name: str(home)}) == program
    first = compiler(tmp_path / "first")
    assert (
        toolkit.find_compiler({"PATH": f"/bin:{tmp_path / 'first'}", "CUDA_HOME": str(tmp_path / "CUDA_HOME")}) == first
    )


def test_usual_places_and_pip_s_packages_are_looked_at(monkeypatch):
    monkeypatch.undo()
    folders = [str(folder) for folder in toolkit.compiler_folders({})]
    assert "/usr/local/cuda/bin" in folders
    assert any(folder.endswith("nvidia/cuda_nvcc/bin") for folder in folders)


def test_releases_are_read_and_compared_with_torch():
    assert toolkit.compiler_release(OUTPUT.format("12.4", "12.4", "12.4")) == "12.4"
    assert toolkit.compiler_release("nothing") is None
    assert toolkit.mismatch("12.4", "12.8") is None and toolkit.mismatch("13.0", "13.0") is None
    assert "no CUDA compiler (nvcc)" in str(toolkit.mismatch(None, "12.4"))
    assert "install the CUDA toolkit 12.4" in str(toolkit.mismatch(None, "12.4"))
    assert "of 11.8, and torch of CUDA 12.4" in str(toolkit.mismatch("11.8", "12.4"))
    assert "built without CUDA" in str(toolkit.mismatch("12.4", None))


def test_the_compiler_is_brought_onto_the_path(tmp_path, monkeypatch):
    compiler(tmp_path / "cuda" / "bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    with pytest.raises(ImportError, match="torch of CUDA 13.0"):
        toolkit.prepare_compiler("13.0")
    toolkit.prepare_compiler("12.8")
    assert os.environ["PATH"].split(os.pathsep)[0] == str(tmp_path / "cuda" / "bin")


def test_pip_s_runtime_gets_the_name_that_linkers_look_for(tmp_path, monkeypatch):
    compiler(tmp_path / "cu13" / "bin", "13.0")
    library = tmp_path / "cu13" / "lib"
    library.mkdir()
    (library / "libcudart.so.13").write_text("the runtime")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cu13"))
    for _ in range(2):  # the second time it is there
        toolkit.prepare_compiler("13.0")
        assert (library / "libcudart.so").read_text() == "the runtime"
    toolkit.name_runtime(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_without_one_the_message_names_the_toolkit():
    with pytest.raises(ImportError, match="install the CUDA toolkit 12.4"):
        toolkit.prepare_compiler("12.4")
