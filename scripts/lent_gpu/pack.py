#!/usr/bin/env python
"""Makes training scenes and fits small for a journey, and whole again: a fit takes an eighth of its size.

    python scripts/lent_gpu/pack.py pack scenes packed          # here
    python scripts/lent_gpu/pack.py unpack packed scenes 16     # there, with 16 processes

Colours become WebP; opacities and confidences JPEG; exact depths are rounded to 0.2 %, rendered ones to 2 %, and become
PNG of 16 bits.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

TALLEST = 16_000
"""Rows of a picture that WebP takes."""
LOSSLESS = (".png", [cv2.IMWRITE_PNG_COMPRESSION, 9])
CODES = {
    "colour": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 88]),
    "grey": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 80]),
    "exact": LOSSLESS,
    "rendered": LOSSLESS,
}
STEPS = {"exact": 0.002, "rendered": 0.02}
"""Of the logarithm of depth."""


def kind_of(name: str) -> str:
    """What a tensor holds, by the last word of its name."""
    word = name.replace(".", "_").rsplit("_", 1)[-1]
    if word == "depth":
        return "exact" if name in ("depth", "target_depth") else "rendered"
    return {"rgb": "colour", "alpha": "grey", "confidence": "grey"}.get(word, "raw")


def levels_of(depth: NDArray, step: float) -> NDArray:
    """Depth, 0 = unknown and inf = nothing, in steps of its logarithm, uint16."""
    known = (depth > 0) & np.isfinite(depth)
    level = np.round(np.log(np.where(known, depth, 1).astype(np.float32)) / step) + 10_000
    return np.where(known, level, np.isinf(depth)).astype(np.uint16)


def depth_of(levels: NDArray, step: float) -> NDArray:
    """Inverse of `levels_of`, float16."""
    depth = np.where(levels > 1, np.exp((levels.astype(np.float32) - 10_000) * step), 0.0)
    return np.where(levels == 1, np.inf, depth).astype(np.float16)


def packed(tensors: dict[str, NDArray]) -> tuple[dict[str, NDArray], dict[str, list[int]]]:
    """Coded tensors, and the shapes of those that were coded: frames below each other as pictures."""
    coded, shapes = {}, {}
    for name, value in tensors.items():
        kind = kind_of(name)
        if kind == "raw":
            coded[name] = value
            continue
        shapes[name] = list(value.shape)
        if kind in STEPS:
            value = levels_of(value if value.shape[-1] == 1 else value[..., None], STEPS[kind])
        frames = value.reshape(-1, *value.shape[-3:])[..., ::-1]  # OpenCV's order of colours
        count = max(1, TALLEST // frames.shape[1])
        for k, first in enumerate(range(0, len(frames), count)):
            tall = np.concatenate(list(frames[first : first + count]))
            done, coded[f"{name}|{k}"] = cv2.imencode(CODES[kind][0], tall, CODES[kind][1])
            if not done:
                raise ValueError(f"{tall.shape} cannot be coded as {CODES[kind][0]}")
    return coded, shapes


def unpacked(coded: dict[str, NDArray], shapes: dict[str, list[int]]) -> dict[str, NDArray]:
    """Inverse of `packed`."""
    tensors = {name: value for name, value in coded.items() if "|" not in name}
    for name, shape in shapes.items():
        count = sum(key.rsplit("|", 1)[0] == name for key in coded)
        parts = [np.atleast_3d(cv2.imdecode(coded[f"{name}|{k}"], cv2.IMREAD_UNCHANGED)) for k in range(count)]
        whole, step = np.concatenate(parts)[..., ::-1], STEPS.get(kind_of(name))
        tensors[name] = (whole if step is None else depth_of(whole, step)).reshape(shape)
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


def main(mode: str, source: str, target: str, processes: str = "1") -> None:
    """Convert the files of a folder."""
    Path(target).mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    with Pool(int(processes)) as pool:
        pool.map(partial(convert, mode, Path(target)), sorted(Path(source).glob("*.safetensors")), chunksize=1)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5) or sys.argv[1] not in ("pack", "unpack"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
