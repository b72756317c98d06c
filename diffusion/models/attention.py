"""Cross-attention whose context is cut in two: one part per pair of key and value projections."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


def add_image_projections(attention: Attention) -> None:
    """Give a cross-attention a second pair of key and value projections: `to_k_ip`, `to_v_ip` (no biases)."""
    width = attention.cross_attention_dim
    attention.to_k_ip = nn.Linear(width, attention.inner_kv_dim, bias=False)
    attention.to_v_ip = nn.Linear(width, attention.inner_kv_dim, bias=False)


class SplitCrossAttention:
    """Attention processor for the spatial cross-attentions of the video UNet.

    With a split at n, tokens [0, n) of the context go through `to_k`/`to_v` and the others through `to_k_ip`/
    `to_v_ip`; the same queries attend to both, and the two results are added with weight 1 before the output
    projection. The official network was trained with n = 77 on 256 image tokens, so the cut belongs to its
    weights. Without a split (None) this is plain cross-attention.

    All frames of a clip share their context, so keys and values are computed once per clip and the queries of
    all its frames attend to them together; that equals attention frame by frame, as no mask is involved. The
    exception is a context of exactly n + T * tokens_per_frame tokens (original DynamiCrafter): then each
    frame attends to its own slice of the second part.

    `num_frames` is set by the UNet at the start of each forward pass, since diffusers hands processors the
    context repeated for every frame, [B*T, L, C], and not the number of frames.
    """

    def __init__(self, split: int | None, tokens_per_frame: int | None) -> None:
        self.split = split
        self.tokens_per_frame = tokens_per_frame
        self.num_frames = 1

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None
    ) -> Tensor:
        """Queries [B*T, N, C] and context [B*T, L, D] (the same for the T frames of a clip) -> [B*T, N, C]. The video
        UNet makes no attention mask."""
        context = encoder_hidden_states[:: self.num_frames]
        first, second = self._parts(context)
        query = attn.to_q(hidden_states)
        out = _attend(query, attn.to_k(first), attn.to_v(first), attn.heads)
        if second is not None:
            out = out + _attend(query, attn.to_k_ip(second), attn.to_v_ip(second), attn.heads)
        return attn.to_out[1](attn.to_out[0](out))

    def _parts(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        """Context [B, L, D] -> its first part [B, L1, D]; its second, [B, L2, D] or [B*T, L2/T, D], or None."""
        if self.split is None or context.shape[1] <= self.split:
            return context, None
        first, second = context[:, : self.split], context[:, self.split :]
        if self.tokens_per_frame is not None and second.shape[1] == self.tokens_per_frame * self.num_frames:
            second = second.reshape(-1, self.tokens_per_frame, second.shape[2])
        return first, second


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention of queries [B*T, N, C] to keys, values [B, L, C] or [B*T, L, C] -> [B*T, N, C]."""
    batch, _, width = key.shape

    def split_heads(x: Tensor) -> Tensor:
        return x.reshape(batch, -1, heads, width // heads).transpose(1, 2)

    out = F.scaled_dot_product_attention(split_heads(query), split_heads(key), split_heads(value))
    return out.transpose(1, 2).reshape(query.shape[0], -1, width)
