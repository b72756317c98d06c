"""Noise of other packages that no user can act on is silenced, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from genfusion_ns import quiet


def test_only_the_known_warnings_are_silenced():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        quiet.third_parties()
        warnings.warn("`torch.cuda.amp.custom_fwd(args...)` is deprecated. Please use ...", FutureWarning, stacklevel=1)
        warnings.warn("`torch.cuda.amp.GradScaler(args...)` is deprecated.", FutureWarning, stacklevel=1)
        warnings.warn("No `image_root` provided. All relative paths ...", UserWarning, stacklevel=1)
        warnings.warn("Detected call of `lr_scheduler.step()` before `optimizer.step()`. In", UserWarning, stacklevel=1)
        warnings.warn("The TBB threading layer requires TBB version 2021 update 6", UserWarning, stacklevel=1)
        assert not heard
        warnings.warn("`torch.cuda.amp.autocast(args...)` is deprecated.", FutureWarning, stacklevel=1)
        warnings.warn("your data is odd", UserWarning, stacklevel=1)
        assert len(heard) == 2


@pytest.mark.slow
@pytest.mark.parametrize("module", ["nerfstudio.scripts.train", "genfusion_ns.plugin.config"])
def test_starting_nerfstudio_says_nothing_and_leaves_sigterm_alone(module):
    """In a process of its own: Nerfstudio's registry finds the plugin, and imports it, before what warns. pycolmap,
    whose handler prints C++ frames, is not imported."""
    program = f"import {module}, signal, sys; print('pycolmap' in sys.modules, signal.getsignal(signal.SIGTERM))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.split()[0] == "False"
