"""Commands that are printed for the user to paste."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from genfusion_ns.plugin.next_steps import resume_command

CHECKPOINTS = Path("/runs/my photos/genfusion/now/nerfstudio_models")
RESUMED = ["--load-dir", str(CHECKPOINTS), "--timestamp", "now"]


def command(argv):
    data = SimpleNamespace(datamanager=SimpleNamespace(data=Path("/my photos")))
    config = SimpleNamespace(method_name="genfusion", timestamp="now", pipeline=data)
    return shlex.split(resume_command(argv, config, CHECKPOINTS))


@pytest.mark.parametrize(
    "before",
    [[], ["--load-dir", "old", "--timestamp", "then"], ["--load_dir=old", "--load-step", "7", "--timestamp=then"]],
)
def test_the_same_call_with_where_to_go_on(before):
    rest = ["--data", "my photos", "--vis", "tensorboard", "genfusion-data", "--sparse-views", "3"]
    argv = ["/usr/bin/ns-train", "genfusion", *before, *rest]
    assert command(argv) == ["ns-train", "genfusion", *RESUMED, *rest]


def test_another_program_is_replaced():
    assert command(["pytest", "-q"]) == ["ns-train", "genfusion", *RESUMED, "--data", "/my photos"]
