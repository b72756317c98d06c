"""ns_train.py ARGS: ns-train on a machine without pycolmap: features by OpenCV."""

import sys

import cv2
import numpy as np

from genfusion_ns.data import matching


def _match(views, pairs, threads):
    sift = cv2.SIFT_create(4000)  # pyright: ignore[reportAttributeAccessIssue]
    found = [
        sift.detectAndCompute(cv2.cvtColor(np.ascontiguousarray(v.image), cv2.COLOR_RGB2GRAY), None) for v in views
    ]
    keypoints = [np.array([k.pt for k in points], float).reshape(-1, 2) + 0.5 for points, _ in found]
    matches = {}
    for a, b in pairs:
        near = cv2.BFMatcher(cv2.NORM_L2).knnMatch(found[a][1], found[b][1], k=2)
        good = [(m.queryIdx, m.trainIdx) for m, n in near if m.distance < 0.8 * n.distance]
        matches[a, b] = np.array(good, np.int64).reshape(-1, 2)
    return keypoints, matches


matching._match = _match
from nerfstudio.scripts.train import entrypoint  # noqa: E402

sys.argv[0] = "ns-train"
entrypoint()
