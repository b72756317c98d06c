"""Clip pairs on disk: one safetensors file per shard, checked on reading, and an index over a folder of them.

In a shard, clip i's tensors are called `0000.render_rgb` and so on with i in four digits; the metadata's `clips` is a
JSON list with each clip's provenance and a CRC-32 over its tensors, so that a flipped bit is noticed too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion.errors import UserError

VERSION = 3
INDEX_NAME = "index.json"

log = logging.getLogger(__name__)


class ShardError(UserError):
    """A shard that cannot be used; the text names the file, what is wrong, and what to do."""


@dataclass(frozen=True)
class Pair:
    """One clip: T frames as a poor reconstruction renders them, and as they are."""

    render_rgb: Tensor
    """uint8 [T, H, W, 3], over black."""
    render_depth: Tensor
    """float16 [T, H, W, 1] expected z-depth in the fit's world units, 0 = nothing there."""
    render_alpha: Tensor
    """uint8 [T, H, W, 1], 255 = opaque."""
    target_rgb: Tensor
    """uint8 [T, H, W, 3]."""
    target_depth: Tensor
    """float16 [T, H, W, 1] exact z-depth in the same units, 0 = unknown."""
    reference: Tensor
    """uint8 [n, H, W, 3] training photos nearest to the clip's middle; pixels that did not train are black."""
    warped: Tensor
    """uint8 [T, H, W, 10] what the other training photos show of each frame, see `diffusion.evidence`."""
    provenance: dict[str, Any]
    """Where the clip comes from: scene, family, seed, variant, step, split, source, version (plain JSON values)."""


# name: (dtype, channels); all but the reference have the clip's T, H and W.
_LAYOUT: dict[str, tuple[torch.dtype, int]] = {
    "render_rgb": (torch.uint8, 3),
    "render_depth": (torch.float16, 1),
    "render_alpha": (torch.uint8, 1),
    "target_rgb": (torch.uint8, 3),
    "target_depth": (torch.float16, 1),
    "reference": (torch.uint8, 3),
    "warped": (torch.uint8, 10),
}
_NAMED = {"U8": torch.uint8, "F16": torch.float16}


@dataclass(frozen=True)
class ClipRef:
    """Where one clip lies."""

    shard: Path
    """The file."""
    index: int
    """The clip's number within it."""
    frames: int
    height: int
    width: int
    provenance: dict[str, Any]
    """As in `Pair`."""


def write_shard(path: Path, pairs: Sequence[Pair]) -> None:
    """Write clips to one file, which holds all of them or does not appear at all.

    Raises:
        ValueError: no clip, or one whose tensors have other shapes or types than `Pair` says.
        OSError: the disk is full, or the folder cannot be written; what was there stays.
    """
    if not pairs:
        raise ValueError("a shard needs at least one clip")
    tensors: dict[str, Tensor] = {}
    clips = []
    for index, pair in enumerate(pairs):
        own = {name: getattr(pair, name).cpu().contiguous() for name in _LAYOUT}
        fault = _fault({name: (value.dtype, tuple(value.shape)) for name, value in own.items()})
        if fault:
            raise ValueError(f"clip {index} for {path}: {fault}")
        tensors |= {f"{index:04d}.{name}": value for name, value in own.items()}
        clips.append({"provenance": pair.provenance, "crc32": _checksum(own)})
    metadata = {"format": "genfusion-pairs", "version": str(VERSION), "clips": json.dumps(clips)}
    _write_atomic(path, _ordered(save(tensors, metadata)))


def read_shard(path: Path) -> list[Pair]:
    """All clips of a shard.

    Raises:
        ShardError: the file is missing, cut short, damaged, or no shard.
    """
    return [load_pair(ref) for ref in shard_refs(path)]


def shard_refs(path: Path) -> list[ClipRef]:
    """The clips of a shard, from its header alone.

    Raises:
        ShardError: the file is missing, cut short, no shard, or of another version.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("version") != str(VERSION):
                found = metadata.get("version", "none")
                raise _broken(path, f"its version is {found}, this program reads version {VERSION}")
            clips = json.loads(metadata["clips"])
            refs = []
            for index, clip in enumerate(clips):
                slices = {name: file.get_slice(f"{index:04d}.{name}") for name in _LAYOUT}
                shapes = {
                    name: (_NAMED.get(part.get_dtype()), tuple(part.get_shape())) for name, part in slices.items()
                }
                fault = _fault(shapes)
                if fault:
                    raise _broken(path, f"clip {index}: {fault}")
                frames, height, width = shapes["render_rgb"][1][:3]
                refs.append(ClipRef(Path(path), index, frames, height, width, dict(clip["provenance"])))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ShardError):
            raise
        raise _broken(path, f"{type(error).__name__}: {error}") from error
    if not refs:
        raise _broken(path, "it holds no clip")
    return refs


def load_pair(ref: ClipRef) -> Pair:
    """One clip, checked; nothing else of the shard is read.

    Raises:
        ShardError: the shard is gone, damaged, or changed since it was indexed.
    """
    try:
        with safe_open(str(ref.shard), framework="pt") as file:
            tensors = {name: file.get_tensor(f"{ref.index:04d}.{name}") for name in _LAYOUT}
            clip = json.loads((file.metadata() or {})["clips"])[ref.index]
            expected, provenance = clip["crc32"], dict(clip["provenance"])
    except (OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError) as error:
        raise _broken(ref.shard, f"{type(error).__name__}: {error}") from error
    fault = _fault({name: (value.dtype, tuple(value.shape)) for name, value in tensors.items()})
    if not fault and tuple(tensors["render_rgb"].shape[:3]) != (ref.frames, ref.height, ref.width):
        fault = "its shape is not the one in the index"
    if not fault and _checksum(tensors) != expected:
        fault = "its checksum does not fit its content"
    if fault:
        raise _broken(ref.shard, f"clip {ref.index}: {fault}")
    return Pair(**tensors, provenance=provenance)


def build_index(folder: Path) -> list[ClipRef]:
    """Index `folder/*.safetensors`, sorted by name; a shard that cannot be used is named in a warning and left out.

    `index.json` in the folder records shapes, provenance and a BLAKE2b hash per shard; hashes of files whose size and
    time stamp have not changed are taken from the index that is there.

    Raises:
        ShardError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ShardError(f"Found no folder {folder}; expected one with shards. Make some with genfusion-make-pairs.")
    known = _known_hashes(folder / INDEX_NAME)
    refs: list[ClipRef] = []
    entries = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found = shard_refs(path)
            state = path.stat()
        except (ShardError, OSError) as error:
            log.warning("skipped: %s", error)
            continue
        stamp = [state.st_size, state.st_mtime_ns]
        old_stamp, digest = known.get(path.name, (None, ""))
        if old_stamp != stamp:
            digest = file_hash(path)
        clips = [{key: value for key, value in asdict(ref).items() if key != "shard"} for ref in found]
        entries.append({"shard": path.name, "stamp": stamp, "blake2b": digest, "clips": clips})
        refs += found
    content = json.dumps({"version": VERSION, "shards": entries}, indent=1).encode()
    _write_atomic(folder / INDEX_NAME, content)
    return refs


def file_hash(path: Path) -> str:
    """BLAKE2b (16 bytes, hexadecimal) of a file's content."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _ordered(content: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library's order changes from process to process, and with
    it the hash of a shard that is made again."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def _known_hashes(index: Path) -> dict[str, tuple[list[int], str]]:
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["shards"]
        return {entry["shard"]: (entry["stamp"], entry["blake2b"]) for entry in shards}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # none yet, or unreadable: it is written anew


def _fault(found: dict[str, tuple[torch.dtype | None, tuple[int, ...]]]) -> str:
    """What is wrong with a clip's dtypes and shapes, empty if nothing is."""
    frames = found["render_rgb"][1]
    for name, (dtype, channels) in _LAYOUT.items():
        own_dtype, shape = found[name]
        if own_dtype != dtype or len(shape) != 4 or shape[-1] != channels or 0 in shape:
            return f"{name} is {own_dtype} {list(shape)}, expected {dtype} [T, H, W, {channels}]"
        first = 1 if name == "reference" else 0
        if shape[first:3] != frames[first:3]:
            return f"{name} is {list(shape)}, beside render_rgb {list(frames)}"
    return ""


def _checksum(tensors: dict[str, Tensor]) -> int:
    total = 0
    for name in _LAYOUT:
        total = zlib.crc32(tensors[name].contiguous().numpy().tobytes(), total)
    return total


def _broken(path: Path, what: str) -> ShardError:
    return ShardError(
        f"{path} is no whole shard ({what}). Delete it and run genfusion-make-pairs again, which makes it anew."
    )


def _write_atomic(path: Path, data: bytes) -> None:
    """Write by way of a temporary file beside `path`, which holds the old or the new content, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


assert set(_LAYOUT) == {item.name for item in fields(Pair)} - {"provenance"}
