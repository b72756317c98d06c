"""What the measurements of this folder share: the clock, peaks of memory, the machine, and tables."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

# Before torch is imported: idle OpenMP threads that spin slow down whatever else runs, torch included.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from genfusion_ns import gpu
from genfusion_ns.errors import UserError

Device = Literal["cuda", "cpu"]
DEVICE: Device = "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(name: Device) -> torch.device:
    """Raises UserError for cuda without a GPU that torch can use."""
    if name == "cuda" and not torch.cuda.is_available():
        found = gpu.unused_gpu(torch.__version__, torch.version.cuda)
        raise UserError(
            "--device cuda wants an NVIDIA GPU (--device cpu measures the processor): "
            + (found or f"torch {torch.__version__} sees none here.")
        )
    return torch.device(name)


def timed(call: Callable[[], object], repeats: int, device: torch.device, pieces: int = 1) -> dict[str, Any]:
    """Milliseconds for each of the `pieces` of a call: median and extremes of `repeats` calls, and the first call
    (which may compile) by itself. The device is waited for at the end of each. `peak_bytes` is the device's; on a CPU
    that of the process so far."""
    cuda, times = device.type == "cuda", []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start) / pieces)
    found = {"median_ms": statistics.median(times[1:]), "min_ms": min(times[1:]), "max_ms": max(times[1:])}
    return {**found, "first_ms": times[0], "peak_bytes": peak_bytes(device)}


def peak_bytes(device: torch.device) -> int:
    """Most memory so far, of the device or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def machine(device: torch.device) -> dict[str, Any]:
    """What figures belong to."""
    found = {"device": device.type, "python": platform.python_version(), "torch": torch.__version__}
    if device.type == "cpu":
        return found | {"threads": torch.get_num_threads()}
    driver = gpu.driver_version(gpu.run_nvidia_smi())
    return found | {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "driver": driver}


def report(rows: list[dict[str, Any]], device: torch.device, title: str, target: Path | None) -> None:
    """Rows as a table, and as JSON, each with its machine, in `target`; `-` = on standard output, and no table."""
    text = json.dumps([row | {"machine": machine(device)} for row in rows], indent=2) + "\n"
    if str(target) == "-":
        sys.stdout.write(text)
        return
    if target is not None:
        target.write_text(text)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    heads = (name.replace("_bytes", " GiB").replace("_", " ") for name in columns)
    table = Table(*heads, title=title, box=SIMPLE, padding=0)
    for row in rows:
        table.add_row(*(_cell(name, row.get(name)) for name in columns))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _cell(name: str, value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "yes" if value else ""
    if name.endswith("_bytes"):
        return f"{value / 2**30:.2f}"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
