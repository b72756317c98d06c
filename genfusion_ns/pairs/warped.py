"""What the training photos of a fit show of its other frames: the evidence that the loop gives a repairer too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from genfusion_ns.geometry import nearest_views, scene_extent
from genfusion_ns.loop.captured import SeenView
from genfusion_ns.loop.plane_sweep import plane_sweep, stacked
from genfusion_ns.loop.repair import RGBDClip
from genfusion_ns.loop.reproject import reproject

NEIGHBOURS = 4
"""Photos that are asked, the most alike first; as many as in the loop (`LoopConfig.neighbours`)."""


def warped_photos(clip: RGBDClip, photos: Tensor, masks: np.ndarray, train: Sequence[int]) -> Tensor:
    """Each frame's nearest training photos, warped into it through the surface that the fit shows, and through the one
    where they agree: as in the loop. A frame that trained is shown its own photo, as far as it trained.

    Args:
        clip: the fit's renders of all F frames.
        photos: [F, H, W, 3] in [0, 1].
        masks: [F, H, W] bool, the pixels that trained.
        train: numbers of the frames that trained.

    Returns:
        [F, H, W, 10] in [0, 1], as `stacked` says.
    """
    cameras = list(clip.cameras)
    known = torch.from_numpy(masks.astype(np.float32))[..., None]
    views = {i: SeenView(cameras[i], photos[i], clip.depth[i], clip.alpha[i], known[i]) for i in train}
    unit = scene_extent([cameras[i] for i in train])
    shown, matches = [], []
    for i, camera in enumerate(cameras):
        chosen = [views[train[j]] for j in nearest_views(camera, [cameras[j] for j in train], NEIGHBOURS)]
        shown.append(reproject(camera, clip.depth[i], clip.alpha[i], chosen, unit))
        matches.append(plane_sweep(camera, clip.rgb[i], clip.depth[i], chosen))
    return stacked(shown, matches)
