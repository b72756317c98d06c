"""Stages of long work that can be interrupted at any time and called again.

Each stage has a marker file that names what it was run for: a hash of its own options and of the stage before. A
stage whose marker fits and says "done" is skipped; one that was interrupted continues on what it left behind; one
whose options, or whose forerunner, changed starts afresh.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genfusion_ns.files import write_atomic


@dataclass
class Stages:
    """The stages of one piece of work, run in order."""

    folder: Path
    """Where the markers lie."""
    skipped: list[str] = field(default_factory=list)
    """Names of the stages that had been done before."""
    _key: str = ""
    """Hash of everything up to the last stage that was run or skipped."""
    _redone: bool = False
    """Whether a stage that had been done before had to be done again."""

    def run(
        self,
        name: str,
        options: Any,
        work: Callable[[], Any],
        results: Sequence[Path],
        clear: Callable[[], object] | None = None,
    ) -> Any:
        """Run or skip one stage; returns what `work` returned, now or when it was done.

        Args:
            name: the marker's file name.
            options: everything besides the forerunners that the result depends on, as JSON.
            work: does the stage and returns a JSON value; may find its own partial results.
            results: files and folders that the stage makes; where one is gone, the stage is done again.
            clear: removes what an earlier run with other options left; None deletes `results`.
        """
        self._key = hashlib.sha256(json.dumps([self._key, name, options], sort_keys=True).encode()).hexdigest()
        marker = self.folder / f"{name}.json"
        state = _read(marker)
        done = bool(state.get("done")) and all(path.exists() for path in results)
        if state.get("key") == self._key and done and not self._redone:
            self.skipped.append(name)
            return state["result"]
        if state.get("key") != self._key or state.get("done"):
            self._redone = True
            (clear or (lambda: delete(results)))()
            write_atomic(marker, json.dumps({"key": self._key, "done": False}).encode())
        result = work()
        write_atomic(marker, json.dumps({"key": self._key, "done": True, "result": result}).encode())
        return result


def delete(paths: Sequence[Path]) -> None:
    """Delete files and folders, those that exist."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _read(marker: Path) -> dict[str, Any]:
    try:
        state = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}
