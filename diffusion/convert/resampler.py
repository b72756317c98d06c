"""The resampler's tensors."""

from __future__ import annotations

import re

from diffusion.convert.pieces import NetworkPlan, Piece, Shapes, on_meta, rename
from diffusion.errors import UserError
from diffusion.models.resampler import Resampler

PREFIX = "image_proj_model."
OFFICIAL_HEAD_WIDTH = 64

LAYER = (
    ("0.norm1", "ln0"),
    ("0.norm2", "ln1"),
    ("0.to_q", "attn.to_q"),
    ("0.to_out", "attn.to_out.0"),
    ("1.0", "ff.0"),
    ("1.1", "ff.1.net.0.proj"),
    ("1.3", "ff.1.net.2"),
)


def plan_resampler(shapes: Shapes, head_width: int | None = None) -> NetworkPlan:
    """Infer the sizes from the tensors and say where each converted tensor comes from.

    Args:
        shapes: shapes of the tensors.
        head_width: width of an attention head, which the tensors do not tell; None = 64, the official one.

    Raises:
        UserError: for tensors that make no such network, or a head width that does not divide its attention.
    """
    inner, hidden = shapes["layers.0.0.to_q.weight"]
    head_width = head_width or OFFICIAL_HEAD_WIDTH
    if inner % head_width:
        raise UserError(
            f"the resampler's attention is {inner} wide, which heads of width {head_width} do not divide; "
            "give its head width with --resampler-head-width."
        )
    model = on_meta(
        lambda: Resampler(
            embed_dims=shapes["proj_in.weight"][1],
            output_dims=shapes["proj_out.weight"][0],
            hidden_dims=hidden,
            depth=shapes.count("layers.{}."),
            dim_head=head_width,
            heads=inner // head_width,
            num_queries=shapes["latents"][1],
            ffn_ratio=shapes["layers.0.1.1.weight"][0] / hidden,
        ),
        "resampler",
    )
    pieces = {}
    for name in shapes:
        match = re.match(r"(layers\.\d+\.)(.*)", name)
        if match is None:
            pieces[name] = Piece(name)
        elif match[2] == "0.to_kv.weight":
            pieces[match[1] + "attn.to_k.weight"] = Piece(name, part=(0, 2))
            pieces[match[1] + "attn.to_v.weight"] = Piece(name, part=(1, 2))
        else:
            pieces[match[1] + rename(match[2], LAYER)] = Piece(name)
    return NetworkPlan("resampler", shapes.prefix, model, pieces)
