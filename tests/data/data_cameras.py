"""Cameras of synthetic captures."""

from __future__ import annotations

import numpy as np
import torch

from genfusion_ns.cameras import Camera
from genfusion_ns.data.views import FloatArray


def camera_from_arrays(c2w: FloatArray, K: FloatArray, width: int, height: int) -> Camera:
    """A float64 `Camera` from an OpenCV camera-to-world matrix [3|4, 4] and intrinsics [3, 3]."""
    w2c = np.eye(4)
    w2c[:3, :3] = c2w[:3, :3].T
    w2c[:3, 3] = -c2w[:3, :3].T @ c2w[:3, 3]
    return Camera(torch.from_numpy(w2c), torch.from_numpy(np.array(K, dtype=np.float64)), int(width), int(height))
