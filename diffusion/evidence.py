"""What captured photos show of the frames to be repaired: a clip of ten channels beside the renderings.

Evidence is [B, 10, T, H, W] in [0, 1]: the colour of photos warped into the frame through the rendered surface;
`trust`, how surely that colour belongs there; `seen`, how far any photo shows the place at all; `near`, from how near a
direction one looks at it (1 = the same, 1/e per 20 degrees; 0 = in no photo's frame); the colour of photos at the depth
where they agree best, be the rendered surface there or not; and `agreement`, how well they do. Splats that no
photo sees are coloured by chance, however opaque they are, and surfaces lie at wrong depths: nothing in the renderings
tells, only this does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.filling import pull_push

CHANNELS = 10
WARPED, AGREED = slice(0, 3), slice(6, 9)
TRUST, SEEN, NEAR, AGREEMENT = 3, 4, 5, 9
"""Which channel is what; the slices are colours."""
UNSEEN = 0.1
"""Weight of a pixel that no photo shows, beside 1, where surroundings are averaged."""


def no_evidence(frames: Tensor) -> Tensor:
    """Evidence that says nothing of frames [B, C, T, H, W] in [-1, 1]: photos would look like them, everything may have
    been seen, and nothing is sure."""
    colour = ((frames[:, :3].float() + 1) / 2).clamp(0, 1)
    flag = torch.ones_like(colour[:, :1])
    return torch.cat([colour, 0 * flag, flag, 0 * flag, colour, 0 * flag], dim=1)


def as_photos_show(frames: Tensor, evidence: Tensor) -> Tensor:
    """Frames [B, C, T, H, W] in [-1, 1] with the warped photos' colours where a photo shows the place."""
    colour, seen = 2 * evidence[:, WARPED] - 1, evidence[:, SEEN, None]
    return torch.cat([torch.lerp(frames[:, :3], colour, seen), frames[:, 3:]], dim=1)


def as_photos_agree(frames: Tensor, evidence: Tensor) -> Tensor:
    """Frames [B, C, T, H, W] in [-1, 1] with the colours that photos have where they agree best."""
    return torch.cat([2 * evidence[:, AGREED] - 1, frames[:, 3:]], dim=1)


def as_surroundings_suggest(frames: Tensor, evidence: Tensor) -> Tensor:
    """Frames [B, C, T, H, W] in [-1, 1] with what no photo shows replaced by what lies around it."""
    batch = len(frames)
    weight = UNSEEN + (1 - UNSEEN) * evidence[:, SEEN, None]
    flat, share = (clip.transpose(1, 2).flatten(0, 1) for clip in (frames, weight))
    guess = pull_push(flat * share, share)
    return torch.lerp(guess, flat, share).unflatten(0, (batch, -1)).transpose(1, 2)
