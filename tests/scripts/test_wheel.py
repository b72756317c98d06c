"""The wheel: what a user's pip installs, in an environment without the checkout."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def check_wheel(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts" / "checks"))
    import install as check_wheel

    return check_wheel


@pytest.mark.slow
def test_a_fresh_wheel_lists_the_methods_and_repairs_a_clip(check_wheel, tmp_path):
    wheel = check_wheel.build(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]
    assert "genfusion_ns/stereo/weights/stereo.safetensors" in names
    programs = check_wheel.install(wheel, tmp_path / "environment", full=False)
    found = check_wheel.check(programs, tmp_path)
    assert found[0].startswith(f"installed: {tmp_path / 'environment'}")
    # without its weights it is refused: the check can fail
    (packages,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    (packages / "genfusion_ns/stereo/weights/stereo.safetensors").unlink()
    with pytest.raises(RuntimeError, match="stereo.safetensors"):
        check_wheel.check(programs, tmp_path)
