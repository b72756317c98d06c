"""Peak memory of the converter on a stand-in checkpoint of full size (10.4 GB of random weights).

    python scripts/checks/convert_memory.py ../shared/parity/full_state_dict_shapes.json

The argument names the official tensors with their shapes. Needs about 15 GB of disk in the temporary folder (TMPDIR),
and removes everything afterwards. Linux only (the peak is the kernel's VmHWM). Exits with status 1 if the converter's
resident memory ever was 6 GiB or more.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from mmap import MAP_SHARED
from pathlib import Path
from typing import Annotated

import torch
import tyro
from safetensors import safe_open

from diffusion.schedulers.tables import alphas_cumprod_zero_snr, latent_scales

LIMIT_GIB = 6.0

# The kernel's own high-water mark of the converting process; getrusage would also count this process before the exec.
CONVERT = """
import re
from pathlib import Path
from diffusion.convert.cli import main
main()
print("VmHWM", re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def write_stand_in(shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """A Lightning file of random weights, made on disk: neither empty nor sparse, and never all in memory."""
    with torch.serialization.skip_data():
        torch.save({"state_dict": {name: torch.empty(shape) for name, shape in shapes.items()}}, path)
    torch.serialization.set_default_mmap_options(MAP_SHARED)
    state = torch.load(path, mmap=True, weights_only=True)["state_dict"]
    generator = torch.Generator().manual_seed(0)
    for tensor in state.values():
        tensor.normal_(std=0.02, generator=generator)
    state["alphas_cumprod"].copy_(alphas_cumprod_zero_snr(1000, 0.00085, 0.012))
    state["scale_arr"].copy_(latent_scales(len(state["scale_arr"]), 0.7, 400))


def check_one_weight(checkpoint: Path, out: Path) -> None:
    """The last shard holds the output convolution, as rounded from the checkpoint."""
    source = torch.load(checkpoint, mmap=True, weights_only=True)["state_dict"]
    index = json.loads((out / "unet" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    with safe_open(out / "unet" / index["weight_map"]["conv_out.weight"], framework="pt") as file:
        written = file.get_tensor("conv_out.weight")
    if not torch.equal(written, source["model.diffusion_model.out.2.weight"].to(written.dtype)):
        sys.exit("the converted weights differ from the checkpoint's")


def main(shapes: Annotated[Path, tyro.conf.Positional]) -> None:
    """Convert a full-size stand-in checkpoint and print the converter's peak resident memory.

    Args:
        shapes: full_state_dict_shapes.json of the parity data: official name -> [shape, dtype].
    """
    listed = {name: tuple(shape) for name, (shape, _) in json.loads(shapes.read_text()).items()}
    with tempfile.TemporaryDirectory(prefix="convert-memory-") as workspace:
        checkpoint, out = Path(workspace) / "stand-in.ckpt", Path(workspace) / "pipeline"
        write_stand_in(listed, checkpoint)
        print(f"stand-in: {len(listed)} tensors, {checkpoint.stat().st_blocks * 512 / 1e9:.2f} GB on disk")
        started = time.perf_counter()
        command = [sys.executable, "-c", CONVERT, str(checkpoint), str(out)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - started
        told, _, kilobytes = done.stdout.rpartition("VmHWM ")
        check_one_weight(checkpoint, out)
        written = sum(file.stat().st_size for file in out.rglob("*.safetensors"))
    peak = int(kilobytes) / 2**20
    print(told)
    print(f"converted to {written / 1e9:.2f} GB in {seconds:.0f} s")
    print(f"peak resident memory of the converter: {peak:.2f} GiB (limit {LIMIT_GIB:.0f} GiB)")
    sys.exit(1 if peak >= LIMIT_GIB else 0)


if __name__ == "__main__":
    tyro.cli(main)
