"""Checkpoints and files that the converter refuses, each with a line that says why."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_files import as_safetensors, save
from parity_data import Parity
from torch import Tensor

from diffusion.convert import cli
from diffusion.convert.checkpoint import sha256
from diffusion.convert.plan import Hints
from diffusion.convert.run import convert
from diffusion.errors import UserError

pytestmark = pytest.mark.slow


def without(*patterns: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {k: v for k, v in state.items() if not any(re.search(p, k) for p in patterns)}


def changed(name_ending: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def apply(state: dict[str, Tensor]) -> dict[str, Tensor]:
        name = next(name for name in state if name.endswith(name_ending))
        return state | {name: change(state[name].clone())}

    return apply


def with_nan(tensor: Tensor) -> Tensor:
    tensor.view(-1)[0] = float("nan")
    return tensor


def with_huge(tensor: Tensor) -> Tensor:
    tensor.view(-1)[0] = 1e6
    return tensor


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            without(r"image_proj_model"),
            r"no tensor image_proj_model\.layers\.0\.0\.to_q\.weight, without which the resampler",
        ),
        (without(r"embedder\.model\.visual"), r"no tensor embedder\.model\.visual\.conv1\.weight"),
        (without(r"first_stage_model"), r"no tensor .*without which the autoencoder cannot"),
        (without(r"middle_block\.1\.norm\.weight"), r"1 missing: unet/mid_block.attentions.0.norm.weight"),
        (without(r"input_blocks\.0\.0\.weight"), r"no tensor model.diffusion_model.input_blocks.0.0.weight"),
        (without(r"\.norm2\."), r"missing: .*and \d+ more.*incomplete"),
        (lambda state: state | {"control_model.x": torch.zeros(1)}, r"1 unexpected: control_model.x.*derived"),
        (lambda state: {k + "0": v for k, v in state.items()}, "no tensor|missing"),
        (lambda state: {f"net.{k}": v for k, v in state.items()}, "the UNet cannot be built"),
        (changed("out.2.bias", lambda t: t[:-1]), r"1 misshapen: .*out.2.bias \[\d\] \(expected \[\d\]\)"),
        (changed("out.2.weight", with_nan), "out.2.weight holds NaN"),
        (changed("out.2.weight", with_huge), r"1e\+06.*float16.*--dtype fp32"),
        (changed("alphas_cumprod", lambda t: t * 0.99 + 0.01), "noise schedule .*ends at"),
    ],
)
def test_checkpoints_that_do_not_fit(
    damage: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, parity: Parity, tmp_path: Path
) -> None:
    file = save(damage(parity.weights()), tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=message) as caught:
        convert(file, tmp_path / "out", hints=parity.hints())
    assert "\n" not in str(caught.value)
    # Nothing half-written is left; a report may be.
    assert {path.name for path in tmp_path.iterdir()} <= {"bad.ckpt", "out.report.txt"}


def test_the_report_lists_every_name(parity: Parity, tmp_path: Path) -> None:
    weights = parity.weights()
    removed = [name for name in weights if re.search(r"^model\..*\.norm2\.", name)]
    state = {k: v for k, v in weights.items() if k not in removed} | {"a.b": torch.zeros(1)}
    with pytest.raises(UserError, match=r"All names: .*out\.report\.txt"):
        convert(save(state, tmp_path / "bad.ckpt"), tmp_path / "out", hints=parity.hints())
    report = (tmp_path / "out.report.txt").read_text()
    assert "unexpected (1):\n  a.b\n" in report
    assert f"missing ({len(removed)}):" in report
    assert report.count(".norm2.") == len(removed)


def test_heads_that_the_tensors_do_not_tell(parity: Parity, checkpoint: Path, tmp_path: Path) -> None:
    width = parity.config["vision"]["width"]
    for heads, option in ((width + 1, "--clip-heads"), (0, None)):
        hints = Hints(clip_heads=heads, resampler_head_width=parity.config["res"]["dim_head"])
        if option:
            with pytest.raises(UserError, match=option):
                convert(checkpoint, tmp_path / "out", hints=hints)
    inner = parity.config["res"]["heads"] * parity.config["res"]["dim_head"]
    hints = Hints(clip_heads=parity.hints().clip_heads, resampler_head_width=inner + 1)
    with pytest.raises(UserError, match="--resampler-head-width"):
        convert(checkpoint, tmp_path / "out", hints=hints)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "a.ckpt", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a.ckpt", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "a.ckpt", "web page"),
        (b"hello" * 100, "a.ckpt", "no complete torch file"),
        (b"hello" * 100, "a.safetensors", "no complete safetensors file"),
    ],
)
def test_files_that_are_no_checkpoints(content: bytes, name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        convert(tmp_path / name, tmp_path / "out")


def test_cut_off_and_foreign_files(parity: Parity, checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    for share in (0.01, 0.5, 0.999):
        (tmp_path / "cut.ckpt").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match="cut off"):
            convert(tmp_path / "cut.ckpt", tmp_path / "out")
    file = as_safetensors(parity.weights(), tmp_path / "cut")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="no complete safetensors file"):
        convert(file, tmp_path / "out")
    for content, message in (([1, 2], "holds a list"), ({"epoch": 3}, "no tensors .*epoch")):
        torch.save(content, tmp_path / "foreign.ckpt")
        with pytest.raises(UserError, match=message):
            convert(tmp_path / "foreign.ckpt", tmp_path / "out")
    with pytest.raises(UserError, match="does not exist"):
        convert(tmp_path / "absent.ckpt", tmp_path / "out")
    with pytest.raises(UserError, match="is a folder.*mp_rank"):
        convert(tmp_path, tmp_path / "out")


def test_an_existing_folder_is_kept_unless_told_otherwise(checkpoint: Path, parity: Parity, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        convert(checkpoint, out, hints=parity.hints())
    assert (out / "mine.txt").read_text() == "mine"
    with pytest.raises(UserError, match="does not exist"):
        convert(tmp_path / "absent.ckpt", out, overwrite=True)
    assert (out / "mine.txt").exists()
    convert(checkpoint, out, hints=parity.hints(), overwrite=True)
    assert not (out / "mine.txt").exists() and (out / "unet" / "config.json").exists()


def test_command_line(
    checkpoint: Path,
    parity: Parity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hints = parity.hints()
    options = ["--clip-heads", str(hints.clip_heads), "--resampler-head-width", str(hints.resampler_head_width)]
    monkeypatch.setattr(sys, "argv", ["genfusion-convert", str(checkpoint), str(tmp_path / "out"), *options])
    cli.main()
    printed = capsys.readouterr().out
    assert sha256(checkpoint) in printed
    assert "No missing and no unexpected tensors" in printed
    assert (tmp_path / "out" / "model_index.json").is_file()

    monkeypatch.setattr(sys, "argv", ["genfusion-convert", str(tmp_path / "absent.ckpt"), str(tmp_path / "other")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    refused = capsys.readouterr().err
    assert refused.startswith("error: ") and "Traceback" not in refused
    assert len(refused.strip().splitlines()) == 1
