"""The autoencoder's tensors: already under diffusers' names (GenFusion), or under LDM's (DynamiCrafter)."""

from __future__ import annotations

import re

from diffusion.convert.pieces import NetworkPlan, Piece, Shapes, on_meta
from diffusion.models.vae import make_vae

PREFIX = "first_stage_model."

# Deprecated names of diffusers' attention, then LDM's.
ATTENTION = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}


def plan_vae(shapes: Shapes) -> NetworkPlan:
    """Infer the sizes from the tensors and say where each converted tensor comes from.

    Raises:
        UserError: for tensors that make no such network.
    """
    levels = shapes.count("encoder.down.{}.")
    pieces = {}
    for name, shape in shapes.items():
        target = _from_ldm(name, levels) if levels else _from_diffusers(name)
        is_projection = re.search(r"attentions\.0\.to_\w+(\.0)?\.weight$", target) is not None
        pieces[target] = Piece(name, rank=2 if is_projection and len(shape) > 2 else None)
    renamed = Shapes({k: p.shape(shapes) for k, p in pieces.items()}, "", "autoencoder")
    down = "encoder.down_blocks."
    widths = [renamed[f"{down}{level}.resnets.0.conv1.weight"][0] for level in range(renamed.count(down + "{}."))]
    model = on_meta(
        lambda: make_vae(
            image_channels=renamed["encoder.conv_in.weight"][1],
            block_out_channels=tuple(widths),
            layers_per_block=renamed.count(down + "0.resnets.{}."),
            latent_channels=renamed["decoder.conv_in.weight"][1],
            mid_attention="encoder.mid_block.attentions.0.to_q.weight" in renamed,
        ),
        "autoencoder",
    )
    return NetworkPlan("vae", shapes.prefix, model, pieces)


def _from_diffusers(name: str) -> str:
    match = re.match(r"(.*\.attentions\.0\.)(query|key|value|proj_attn)(\..*)", name)
    return match[1] + ATTENTION[match[2]] + match[3] if match else name


def _from_ldm(name: str, levels: int) -> str:
    """E.g. encoder.down.1.block.0.nin_shortcut.weight -> encoder.down_blocks.1.resnets.0.conv_shortcut.weight."""
    name = name.replace("nin_shortcut", "conv_shortcut").replace("norm_out", "conv_norm_out")
    if match := re.match(r"(.*)\.mid\.attn_1\.(\w+)(\..*)", name):
        return f"{match[1]}.mid_block.attentions.0.{ATTENTION.get(match[2], match[2])}{match[3]}"
    if match := re.match(r"(.*)\.mid\.block_([12])\.(.*)", name):
        return f"{match[1]}.mid_block.resnets.{int(match[2]) - 1}.{match[3]}"
    match = re.match(r"(encoder|decoder)\.(down|up)\.(\d+)\.(.*)", name)
    if match is None:
        return name
    level = int(match[3]) if match[2] == "down" else levels - 1 - int(match[3])
    rest = match[4].replace("block.", "resnets.", 1) if match[4].startswith("block.") else match[4]
    rest = rest.replace("downsample.", "downsamplers.0.").replace("upsample.", "upsamplers.0.")
    return f"{match[1]}.{match[2]}_blocks.{level}.{rest}"
