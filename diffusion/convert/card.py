"""The model card of a converted checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffusion.convert.pieces import NetworkPlan

# Folder -> (what it is, where its weights come from, licence), as their publishers state it.
ORIGINS = {
    "unet": ("denoiser", "GenFusion, trained from DynamiCrafter", "MIT; DynamiCrafter: Apache-2.0"),
    "resampler": ("resampler", "GenFusion, trained from DynamiCrafter", "MIT; DynamiCrafter: Apache-2.0"),
    "image_encoder": ("image encoder", "OpenCLIP ViT-H/14, laion2b_s32b_b79k", "MIT"),
    "vae": ("autoencoder", "4 image channels: Intel/ldm3d-4c; 3: Stable Diffusion", "CreativeML OpenRAIL-M"),
    "text_encoder": ("text encoder (unused by GenFusion)", "OpenCLIP ViT-H/14, laion2b_s32b_b79k", "MIT"),
}


@dataclass
class SourceFile:
    """A file that was converted."""

    path: Path
    size: int
    digest: str


def model_card(
    sources: list[SourceFile],
    networks: list[NetworkPlan],
    dtype: str,
    digests: Mapping[str, str],
    ignored: Mapping[str, list[str]],
) -> str:
    """README.md of the pipeline folder.

    Args:
        sources: the converted files.
        networks: what was written.
        dtype: of the weights, for the reader.
        digests: weight file, relative to the folder -> SHA-256.
        ignored: kind of leftover -> names.
    """
    lines = [
        "---",
        "library_name: diffusers",
        "pipeline_tag: video-to-video",
        "license: other",
        "---",
        "",
        "# RGB-D video repair: converted weights",
        "",
        "Written by `genfusion-convert`; `diffusion.pipeline.RGBDVideoRepairPipeline` loads this folder.",
        "The weights keep the licences of their publishers; check them before you pass the files on.",
        "",
        "| part | tensors | parameters | origin | licence |",
        "| --- | --- | --- | --- | --- |",
    ]
    for network in networks:
        what, origin, licence = ORIGINS[network.folder]
        tensors = network.model.state_dict().values()
        count = sum(tensor.numel() for tensor in tensors)
        lines.append(f"| {what} | {len(tensors)} | {count:,} | {origin} | {licence} |")
    lines += ["", f"Weights are stored in {dtype}.", "", "## Converted from", ""]
    lines += [f"* `{s.path.name}`, {s.size:,} bytes, SHA-256 `{s.digest}`" for s in sources]
    lines += ["", "## Files", ""]
    lines += [f"* `{name}`, SHA-256 `{digest}`" for name, digest in digests.items()]
    if ignored:
        lines += ["", "## Left out", ""]
        lines += [f"* {kind}: {len(names)} tensors" for kind, names in ignored.items()]
    return "\n".join(lines) + "\n"
