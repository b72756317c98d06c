"""Shards: what is written comes back, and what is damaged is named and never trained on."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from diffusion.errors import UserError
from diffusion.train.shards import VERSION, Pair, ShardError, build_index, load_pair, read_shard, write_shard


def some_pair(seed: int = 0, frames: int = 3, height: int = 4, width: int = 6) -> Pair:
    random = torch.Generator().manual_seed(seed)

    def whole(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)

    def half(*shape: int) -> torch.Tensor:
        return (torch.rand(shape, generator=random) * 9).half()

    size = (frames, height, width)
    return Pair(
        render_rgb=whole(*size, 3),
        render_depth=half(*size, 1),
        render_alpha=whole(*size, 1),
        target_rgb=whole(*size, 3),
        target_depth=half(*size, 1),
        reference=whole(1, height, width, 3),
        warped=whole(*size, 10),
        provenance={"scene": f"room-{seed}", "seed": seed, "step": 150},
    )


def assert_same(found: Pair, expected: Pair) -> None:
    assert found.provenance == expected.provenance
    for name in ("render_rgb", "render_depth", "render_alpha", "target_rgb", "target_depth", "reference", "warped"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)
        assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_clips_come_back_as_they_were(tmp_path):
    # 11 clips: their numbers have two digits
    pairs = [some_pair(seed) for seed in range(11)]
    write_shard(tmp_path / "a.safetensors", pairs)
    found = read_shard(tmp_path / "a.safetensors")
    assert len(found) == 11
    for pair, expected in zip(found, pairs, strict=True):
        assert_same(pair, expected)


def test_a_shard_made_again_is_the_same_file_in_any_process(tmp_path):
    write_shard(tmp_path / "a.safetensors", [some_pair(0)])
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from test_shards import *; "
        "[write_shard(Path(sys.argv[2]) / f'{i}.safetensors', [some_pair(0)]) for i in range(4)]"
    )
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", code, here, str(tmp_path)], check=True)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_the_index_lists_all_clips_by_the_name_of_their_shard(tmp_path):
    write_shard(tmp_path / "b.safetensors", [some_pair(2, height=8)])
    write_shard(tmp_path / "a.safetensors", [some_pair(0), some_pair(1)])
    refs = build_index(tmp_path)
    assert [(ref.shard.name, ref.index, ref.provenance["seed"]) for ref in refs] == [
        ("a.safetensors", 0, 0),
        ("a.safetensors", 1, 1),
        ("b.safetensors", 0, 2),
    ]
    assert (refs[2].frames, refs[2].height, refs[2].width) == (3, 8, 6)
    assert_same(load_pair(refs[1]), some_pair(1))


def test_the_index_file_holds_a_hash_of_each_shard_that_follows_its_content(tmp_path):
    shard = tmp_path / "a.safetensors"

    def entry() -> dict:
        build_index(tmp_path)
        return json.loads((tmp_path / "index.json").read_text())["shards"][0]

    write_shard(shard, [some_pair(0)])
    first = entry()
    assert first["blake2b"] == hashlib.blake2b(shard.read_bytes(), digest_size=16).hexdigest()
    assert first["clips"][0]["provenance"]["scene"] == "room-0" and first["clips"][0]["frames"] == 3
    assert entry() == first
    write_shard(shard, [some_pair(1)])
    assert entry()["blake2b"] == hashlib.blake2b(shard.read_bytes(), digest_size=16).hexdigest() != first["blake2b"]


def test_a_damaged_index_file_is_written_anew(tmp_path):
    write_shard(tmp_path / "a.safetensors", [some_pair()])
    (tmp_path / "index.json").write_text('{"shards": [')
    assert len(build_index(tmp_path)) == 1
    assert json.loads((tmp_path / "index.json").read_text())["shards"]


@pytest.mark.parametrize("kept", [0, 5, 60, 0.5, 0.999])
def test_a_shard_cut_short_is_named_and_skipped(tmp_path, caplog, kept):
    write_shard(tmp_path / "whole.safetensors", [some_pair(0)])
    write_shard(tmp_path / "cut.safetensors", [some_pair(1)])
    content = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with caplog.at_level(logging.WARNING):
        refs = build_index(tmp_path)
    assert [ref.shard.name for ref in refs] == ["whole.safetensors"]
    assert "cut.safetensors" in caplog.text and "whole.safetensors" not in caplog.text
    with pytest.raises(ShardError, match=r"cut\.safetensors"):
        read_shard(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("content", [b"", b"no shard at all, just some text", b"\xff" * 4096])
def test_a_file_that_is_no_shard_is_named_and_skipped(tmp_path, caplog, content):
    (tmp_path / "odd.safetensors").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert build_index(tmp_path) == []
    assert "odd.safetensors" in caplog.text


def test_a_flipped_bit_is_noticed_when_the_clip_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    write_shard(path, [some_pair(0), some_pair(1)])
    refs = build_index(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    damaged = 0
    for ref in refs:
        try:
            load_pair(ref)
        except ShardError as error:
            damaged += 1
            assert "a.safetensors" in str(error)
    assert damaged == 1
    with pytest.raises(UserError):
        read_shard(path)


def test_a_shard_that_changed_since_it_was_indexed_is_an_error(tmp_path):
    path = tmp_path / "a.safetensors"
    write_shard(path, [some_pair(0), some_pair(1)])
    first, second = build_index(tmp_path)
    write_shard(path, [some_pair(0, frames=2)])
    with pytest.raises(ShardError, match=r"a\.safetensors.*clip 0"):
        load_pair(first)
    with pytest.raises(ShardError, match=r"a\.safetensors"):
        load_pair(second)
    path.unlink()
    with pytest.raises(ShardError, match=r"a\.safetensors"):
        load_pair(first)


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_shard(path, [some_pair()])
    path.write_bytes(path.read_bytes().replace(f'"version":"{VERSION}"'.encode(), b'"version":"7"'))
    with pytest.raises(ShardError, match="version is 7"):
        read_shard(path)


@pytest.mark.parametrize(
    "change",
    [
        {"render_depth": torch.zeros(3, 4, 6, 1)},
        {"target_rgb": torch.zeros(3, 4, 5, 3, dtype=torch.uint8)},
        {"render_alpha": torch.zeros(3, 4, 6, dtype=torch.uint8)},
        {"reference": torch.zeros(0, 4, 6, 3, dtype=torch.uint8)},
        {"target_depth": torch.zeros(2, 4, 6, 1, dtype=torch.float16)},
        {"warped": torch.zeros(3, 4, 6, 3, dtype=torch.uint8)},
    ],
)
def test_a_clip_of_other_types_or_shapes_is_never_written(tmp_path, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        write_shard(tmp_path / "a.safetensors", [replace(some_pair(), **change)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_loses_nothing_that_was_written(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.safetensors"
    write_shard(path, [some_pair(0)])
    build_index(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(before) == {"a.safetensors", "index.json"}

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, full)
    for target in (path, tmp_path / "b.safetensors"):
        with pytest.raises(OSError, match="No space left"):
            write_shard(target, [some_pair(1)])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_empty_shard_and_a_missing_folder_are_errors(tmp_path):
    with pytest.raises(ValueError, match="at least one clip"):
        write_shard(tmp_path / "a.safetensors", [])
    with pytest.raises(ShardError, match="nowhere"):
        build_index(tmp_path / "nowhere")
    assert build_index(tmp_path) == []
