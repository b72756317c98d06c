"""Official checkpoints by hub id, with the hub played by a function; tensors that are ignored as asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion.convert import fetch
from diffusion.convert.plan import Hints, Problems, find_problems, make_plan
from diffusion.errors import UserError


def test_a_hub_id_is_downloaded_and_a_file_is_not(tmp_path, monkeypatch):
    asked = []

    def download(name: str, file: str) -> str:
        asked.append((name, file))
        return str(tmp_path / "cached.ckpt")

    monkeypatch.setattr(fetch, "hf_hub_download", download)
    assert fetch.find_checkpoint(fetch.OFFICIAL) == tmp_path / "cached.ckpt"
    assert fetch.find_checkpoint("me/mine", "last.ckpt") == tmp_path / "cached.ckpt"
    assert asked == [("Sibo2rr/GenFusion-GenerationModel", "epoch=59-step=34000.ckpt"), ("me/mine", "last.ckpt")]
    (tmp_path / "a.ckpt").touch()
    assert fetch.find_checkpoint(str(tmp_path / "a.ckpt")) == tmp_path / "a.ckpt"
    assert fetch.find_checkpoint("no/such.ckpt") == Path("no/such.ckpt")  # the reader of files says what is missing
    assert len(asked) == 2


def test_without_the_hub_the_message_says_what_to_download(monkeypatch):
    def offline(name: str, file: str) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(fetch, "hf_hub_download", offline)
    with pytest.raises(UserError, match="no route to host") as caught:
        fetch.find_checkpoint(fetch.OFFICIAL)
    for part in (fetch.OFFICIAL_FILE, "https://huggingface.co/Sibo2rr/GenFusion-GenerationModel", "browser"):
        assert part in str(caught.value)


@pytest.mark.slow
def test_unknown_tensors_are_listed_or_ignored_as_asked(parity):
    shapes = {name: tuple(tensor.shape) for name, tensor in parity.weights().items()}
    shapes |= {"extra_head.weight": (2, 3), "extra_head.bias": (2,), "other.table": (5,)}
    hints = parity.hints()
    problems = find_problems(make_plan(shapes, hints), shapes)
    assert problems.unexpected == ["extra_head.bias", "extra_head.weight", "other.table"]
    assert "--ignore" in problems.summary() and "extra_head.weight" in problems.summary()
    asked = Hints(**{**vars(hints), "ignore": ("extra_head.*", "other.?able")})
    plan = make_plan(shapes, asked)
    assert not find_problems(plan, shapes)
    assert plan.ignored["ignored as asked"] == ["extra_head.weight", "extra_head.bias", "other.table"]


@pytest.mark.slow
def test_a_network_s_own_tensors_cannot_be_ignored_away(parity):
    shapes = {name: tuple(tensor.shape) for name, tensor in parity.weights().items()}
    plan = make_plan(shapes, Hints(**{**vars(parity.hints()), "ignore": ("*",)}))
    assert find_problems(plan, shapes).missing == Problems().missing
