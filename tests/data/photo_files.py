"""Photos on disk."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def photo(path: Path, size=(40, 30), mode="RGB", **save) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, tuple([90] * len(mode)) if len(mode) > 1 else 90).save(path, **save)
