"""The image encoder's tensors: from OpenCLIP's names to transformers'."""

from __future__ import annotations

import re
from math import isqrt

from torch import nn
from transformers import CLIPVisionModel

from diffusion.convert.pieces import NetworkPlan, Piece, Shapes, on_meta, rename
from diffusion.errors import UserError
from diffusion.models.image_encoder import open_clip_vision_config

PREFIX = "embedder.model.visual."

# The official preprocessing resizes every image to this side.
IMAGE_SIZE = 224

# Heads of OpenCLIP's vision towers by their width, which the tensors do not tell: ViT-B, L, H, bigG.
HEADS_OF_WIDTH = {768: 12, 1024: 16, 1280: 16, 1664: 16}

BLOCK = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
TOWER = (
    ("class_embedding", "embeddings.class_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("conv1", "embeddings.patch_embedding"),
    ("ln_pre", "pre_layrnorm"),
    ("ln_post", "post_layernorm"),
)


def plan_image_encoder(shapes: Shapes, heads: int | None = None) -> NetworkPlan:
    """Infer the vision tower's sizes from its tensors and say where each converted tensor comes from.

    Args:
        shapes: shapes of the tensors.
        heads: attention heads per block; None = by the width, for OpenCLIP's own sizes.

    Raises:
        UserError: for tensors that make no such network, or a width whose number of heads is not known.
    """
    width, _, patch_size, _ = shapes["conv1.weight"]
    heads = heads or HEADS_OF_WIDTH.get(width)
    if heads is None or width % heads:
        raise UserError(
            f"the image encoder is {width} wide, and {heads or 'an unknown number of'} heads do not fit; "
            "give their number with --clip-heads."
        )
    grid = isqrt(shapes["positional_embedding"][0] - 1)
    image_size = IMAGE_SIZE if IMAGE_SIZE // patch_size == grid else grid * patch_size
    config = open_clip_vision_config(
        width=width,
        layers=shapes.count("transformer.resblocks.{}."),
        heads=heads,
        patch_size=patch_size,
        image_size=image_size,
        mlp_width=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
    )
    model = on_meta(lambda: CLIPVisionModel(config), "image encoder")
    return NetworkPlan("image_encoder", shapes.prefix, model, _pieces(shapes, model))


def _pieces(shapes: Shapes, model: nn.Module) -> dict[str, Piece]:
    # transformers 4 puts the tower's name in front, transformers 5 does not.
    name_of_first = next(iter(model.state_dict()))
    lead = name_of_first.split(".")[0] + "." if "_model." in name_of_first else ""
    pieces = {}
    for name in shapes:
        if name == "proj":  # to the joint space of images and texts
            continue
        match = re.match(r"transformer\.resblocks\.(\d+)\.(.*)", name)
        if match is None:
            pieces[lead + rename(name, TOWER)] = Piece(name)
            continue
        layer = f"{lead}encoder.layers.{match[1]}."
        if projection := re.match(r"attn\.in_proj_(weight|bias)", match[2]):
            for index, letter in enumerate("qkv"):
                target = f"{layer}self_attn.{letter}_proj.{projection[1]}"
                pieces[target] = Piece(name, part=(index, 3))
        else:
            pieces[layer + rename(match[2], BLOCK)] = Piece(name)
    return pieces
