#!/usr/bin/env python
"""Makes training scenes and fits small for a journey, and whole again: a scene takes a twentieth of its size.

    python scripts/lent_gpu/pack.py pack scenes packed          # here
    python scripts/lent_gpu/pack.py unpack packed scenes 16     # there, with 16 processes

Colours become WebP; exact depths are rounded to 0.2 % (losslessly, as second differences of their logarithms), rendered
ones to 2 %; opacities and confidences become JPEG.
"""

from __future__ import annotations

import json
import lzma
import sys
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

Bytes = NDArray[np.uint8]
EXACT, RENDERED = 0.002, 0.02
"""Steps of the logarithm of depth."""
TALLEST = 16_000
"""Rows of a picture that WebP takes."""


def kind_of(name: str) -> str:
    """What a tensor holds, by the last word of its name."""
    word = name.replace(".", "_").rsplit("_", 1)[-1]
    if word == "depth":
        return "exact" if name in ("depth", "target_depth") else "rendered"
    return {"rgb": "colour", "alpha": "grey", "confidence": "grey"}.get(word, "raw")


def coded_picture(frames: NDArray, suffix: str, quality: int) -> Bytes:
    """Frames [F, H, W, c] below each other as one picture."""
    tall = np.ascontiguousarray(frames.reshape(-1, *frames.shape[2:])[..., ::-1])
    flag = cv2.IMWRITE_WEBP_QUALITY if suffix == ".webp" else cv2.IMWRITE_JPEG_QUALITY
    done, data = cv2.imencode(suffix, tall, [flag, quality])
    if not done:
        raise ValueError(f"{frames.shape} cannot be coded as {suffix}")
    return data


def coded_depth(depth: NDArray, step: float) -> Bytes:
    """Depth [..., H, W], 0 = unknown and inf = nothing, as compressed second differences."""
    known = (depth > 0) & np.isfinite(depth)
    level = np.zeros(depth.shape, np.int32)
    level[known] = np.round(np.log(depth[known].astype(np.float32)) / step).astype(np.int32) + 10_000
    level[np.isinf(depth)] = 1
    rows = np.diff(level, axis=-1, prepend=0)
    rest = np.diff(rows, axis=-2, prepend=0)
    folded = np.where(rest >= 0, 2 * rest, -2 * rest - 1).astype(np.uint16)
    halves = np.concatenate([(folded & 255).astype(np.uint8).ravel(), (folded >> 8).astype(np.uint8).ravel()])
    return np.frombuffer(lzma.compress(halves.tobytes()), np.uint8)


def decoded_depth(data: Bytes, shape: tuple[int, ...], step: float) -> NDArray[np.float16]:
    """Inverse of `coded_depth`."""
    low, high = np.frombuffer(lzma.decompress(data.tobytes()), np.uint8).reshape(2, *shape).astype(np.int64)
    folded = low | (high << 8)
    level = np.where(folded % 2 == 0, folded // 2, -(folded + 1) // 2).cumsum(-2).cumsum(-1)
    depth = np.where(level > 1, np.exp((level - 10_000) * step), 0.0)
    depth[level == 1] = np.inf
    return depth.astype(np.float16)


def packed(tensors: dict[str, NDArray]) -> tuple[dict[str, NDArray], dict[str, list[int]]]:
    """Coded tensors, and the shapes of those that were coded."""
    coded, shapes = {}, {}
    for name, value in tensors.items():
        kind = kind_of(name)
        if kind == "raw":
            coded[name] = value
            continue
        shapes[name] = list(value.shape)
        if kind in ("exact", "rendered"):
            flat = value[..., 0] if value.shape[-1] == 1 else value
            coded[f"{name}|0"] = coded_depth(flat, EXACT if kind == "exact" else RENDERED)
            continue
        frames = value.reshape(-1, *value.shape[-3:])
        count = max(1, TALLEST // frames.shape[1])
        options = (".webp", 88) if kind == "colour" else (".jpg", 80)
        for k, first in enumerate(range(0, len(frames), count)):
            coded[f"{name}|{k}"] = coded_picture(frames[first : first + count], *options)
    return coded, shapes


def unpacked(coded: dict[str, NDArray], shapes: dict[str, list[int]]) -> dict[str, NDArray]:
    """Inverse of `packed`."""
    tensors = {name: value for name, value in coded.items() if "|" not in name}
    for name, shape in shapes.items():
        kind = kind_of(name)
        if kind in ("exact", "rendered"):
            flat = tuple(shape[:-1] if shape[-1] == 1 else shape)
            tensors[name] = decoded_depth(coded[f"{name}|0"], flat, EXACT if kind == "exact" else RENDERED)
        else:
            flag = cv2.IMREAD_COLOR if kind == "colour" else cv2.IMREAD_GRAYSCALE
            count = sum(key.rsplit("|", 1)[0] == name for key in coded)
            parts = [np.atleast_3d(cv2.imdecode(coded[f"{name}|{k}"], flag))[..., ::-1] for k in range(count)]
            tensors[name] = np.concatenate(parts)
        tensors[name] = np.ascontiguousarray(tensors[name].reshape(shape))
    return tensors


def convert(mode: str, target: Path, source: Path) -> None:
    """Bring one file over, unless it is there."""
    path = target / source.name
    if path.exists():
        return
    with safe_open(source, "np") as file:
        facts = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if mode == "pack":
        tensors, shapes = packed(tensors)
        facts["shapes"] = json.dumps(shapes)
    else:
        tensors = unpacked(tensors, json.loads(facts.pop("shapes")))
    partial_file = path.with_name(f".{path.name}")
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, partial_file, facts or None)
    partial_file.replace(path)


def main() -> None:
    """pack.py pack|unpack FROM TO [PROCESSES]"""
    if len(sys.argv) not in (4, 5) or sys.argv[1] not in ("pack", "unpack"):
        sys.exit(__doc__)
    mode, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    target.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    with Pool(int(sys.argv[4]) if len(sys.argv) == 5 else 1) as pool:
        pool.map(partial(convert, mode, target), sorted(source.glob("*.safetensors")), chunksize=1)


if __name__ == "__main__":
    main()
