"""The model card of a converted checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffusion.convert.pieces import NetworkPlan

# Folder -> (what it is, where its weights come from, licence), as their publishers state it.
ORIGINS = {
    "unet": ("denoiser", "GenFusion, trained from DynamiCrafter", "MIT; DynamiCrafter: Apache-2.0"),
    "resampler": ("resampler", "GenFusion, trained from DynamiCrafter", "MIT; DynamiCrafter: Apache-2.0"),
    "image_encoder": ("image encoder", "OpenCLIP ViT-H/14, laion2b_s32b_b79k", "MIT"),
    "vae": ("autoencoder", "4 image channels: Intel/ldm3d-4c; 3: Stable Diffusion", "CreativeML OpenRAIL-M"),
}
HEADER = """---
library_name: diffusers
pipeline_tag: video-to-video
license: other
---

# RGB-D video repair: converted weights

Written by `genfusion-convert`; `diffusion.pipeline.RGBDVideoRepairPipeline.from_pretrained` loads this folder.
The weights keep the licences of their publishers; check them before you pass the files on.

| part | tensors | parameters | origin | licence |
| --- | --- | --- | --- | --- |
"""


def model_card(
    checkpoint: Path, digest: str, networks: list[NetworkPlan], dtype: str, ignored: Mapping[str, list[str]]
) -> str:
    """README.md of the pipeline folder.

    Args:
        checkpoint: the converted file, with its SHA-256 `digest`.
        networks: what was written.
        dtype: of the weights, for the reader.
        ignored: kind of leftover -> names.
    """
    lines = []
    for network in networks:
        what, origin, licence = ORIGINS[network.folder]
        lines.append(f"| {what} | {len(network.pieces)} | {network.parameters:,} | {origin} | {licence} |")
    size = checkpoint.stat().st_size
    lines += ["", f"Stored in {dtype}; from `{checkpoint.name}`, {size:,} bytes, SHA-256 `{digest}`."]
    if ignored:
        lines += ["", "## Left out", ""]
        lines += [f"* {kind}: {len(names)} tensors" for kind, names in ignored.items()]
    return HEADER + "\n".join(lines) + "\n"
