"""Small scenes and a brute-force oracle for the rasteriser tests."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.raster import Rasterizer, Render

MAPS = ("color", "alpha", "depth", "median_depth", "normal", "distortion")


@dataclass
class Scene:
    """What a rasteriser takes, in order."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    camera: Camera
    sh_degree: int | None = 3
    background: Tensor | None = None

    def leaves(self) -> list[Tensor]:
        """The parameters; `attach` makes them require grad."""
        return [self.means, self.quats, self.scales, self.opacities, self.colors]

    def attach(self) -> Scene:
        """A copy whose parameters require grad."""
        names = ("means", "quats", "scales", "opacities", "colors")
        return replace(self, **{n: getattr(self, n).detach().clone().requires_grad_(True) for n in names})

    def to(self, dtype: torch.dtype) -> Scene:
        """A copy in another dtype."""
        names = ("means", "quats", "scales", "opacities", "colors")
        background = None if self.background is None else self.background.to(dtype)
        tensors = {n: getattr(self, n).detach().to(dtype) for n in names}
        return replace(self, **tensors, camera=self.camera.to(dtype=dtype), background=background)

    def take(self, index: Tensor) -> Scene:
        """The Gaussians at `index` alone."""
        names = ("means", "quats", "scales", "opacities", "colors")
        return replace(self, **{n: getattr(self, n)[index] for n in names})

    def render(self, rasterizer: Rasterizer, **options) -> Render:
        return rasterizer(*self.leaves(), self.camera, sh_degree=self.sh_degree, background=self.background, **options)


def pinhole(width: int, height: int, focal: float, dtype: torch.dtype = torch.float64) -> Camera:
    """Camera at the origin that looks along z; the principal point is off the centre."""
    K = torch.tensor([[focal, 0, 0.47 * width], [0, 1.1 * focal, 0.54 * height], [0, 0, 1]], dtype=dtype)
    return Camera(torch.eye(4, dtype=dtype), K, width, height)


def random_scene(
    count: int,
    seed: int,
    *,
    width: int = 37,
    height: int = 29,
    channels: int | None = None,
    size: float = 0.25,
    dtype: torch.dtype = torch.float64,
) -> Scene:
    """`count` splats in front of the camera, some beyond the image's border, some nearly edge-on, some tiny."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    depth = 1.0 + 4.0 * torch.rand(count, 1, generator=g, dtype=torch.float64)
    means = torch.cat([0.5 * depth * normal(count, 2), depth], 1)
    scales = size * torch.exp(0.8 * normal(count, 3))
    scales[::7] *= 0.02  # the low-pass decides for these
    opacities = torch.sigmoid(1.5 * normal(count) + 0.5)
    if channels is None:
        colors = 0.3 * normal(count, 16, 3)
        colors[:, 0] += normal(count, 3)
    else:
        colors = normal(count, channels)
    background = torch.rand(3 if channels is None else channels, generator=g, dtype=torch.float64)
    degree = 3 if channels is None else None
    camera = pinhole(width, height, 0.9 * width)
    scene = Scene(means, normal(count, 4), scales, opacities, colors, camera, degree, background)
    return scene.to(dtype)


def random_weights(render: Render, seed: int = 0) -> list[Tensor]:
    """A random cotangent per map."""
    g = torch.Generator().manual_seed(seed)
    maps = [getattr(render, name) for name in MAPS]
    return [torch.randn(m.shape, generator=g, dtype=torch.float64).to(m) for m in maps]


def gradients(scene: Scene, rasterizer: Rasterizer) -> tuple[Render, list[Tensor]]:
    """Render, and the gradients of a random function of all maps: by the five parameters, then the background, then
    the densification signal."""
    scene = scene.attach()
    if scene.background is not None:
        scene.background = scene.background.detach().clone().requires_grad_(True)
    render = scene.render(rasterizer)
    torch.autograd.backward([getattr(render, name) for name in MAPS], random_weights(render))
    leaves = [*scene.leaves(), *([] if scene.background is None else [scene.background]), render.densify_signal]
    return render, [leaf.grad for leaf in leaves]


def relative(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 distance."""
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-300))


def _disc(scene: Scene, g: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, scaled tangents [3, 2] and unit normal of splat g in camera axes."""
    w2c = scene.camera.w2c.numpy()
    w, x, y, z = scene.quats[g].numpy()
    axes = w2c[:3, :3] @ Rotation.from_quat([x, y, z, w]).as_matrix()
    centre = w2c[:3, :3] @ scene.means[g].numpy() + w2c[:3, 3]
    return centre, axes[:, :2] * scene.scales[g, :2].numpy(), axes[:, 2]


def _outline(scene: Scene, centre: np.ndarray, tangents: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre and half side of the screen bounding box of the one-sigma ellipse, by walking around it."""
    turn = np.linspace(0, 2 * math.pi, 40_001)
    rim = centre[:, None] + tangents @ np.stack([np.cos(turn), np.sin(turn)])
    pixels = (scene.camera.K.numpy() @ rim)[:2] / rim[2]
    low, high = pixels.min(1), pixels.max(1)
    return (low + high) / 2, float((high - low).max() / 2)


def brute_force(scene: Scene) -> dict[str, np.ndarray]:
    """Every pixel by ray-plane intersection and explicit sums; discs must lie wholly in front of the camera."""
    K, width, height = scene.camera.K.numpy(), scene.camera.width, scene.camera.height
    discs = []
    for g in range(len(scene.means)):
        centre, tangents, normal = _disc(scene, g)
        middle, half = _outline(scene, centre, tangents)
        radius = math.ceil(3 * max(half, 0.01))
        tiles = np.concatenate([np.floor((middle - radius) / 16), np.ceil((middle + radius) / 16)])
        discs.append((centre[2], g, centre, tangents, normal * (-1 if normal @ centre > 0 else 1), middle, tiles))
    discs.sort(key=lambda disc: disc[0])
    to_world = scene.camera.w2c.numpy()[:3, :3].T
    out = {n: np.zeros((height, width, 3 if n == "normal" else 1)) for n in MAPS if n != "color"}
    out["color"] = np.zeros((height, width, scene.colors.shape[-1]))
    for i in range(height):
        for j in range(width):
            ray = np.linalg.solve(K, [j + 0.5, i + 0.5, 1.0])
            hits, T, median = [], 1.0, 0.0
            for z, g, centre, tangents, normal, middle, tiles in discs:
                if not (tiles[0] <= j // 16 < tiles[2] and tiles[1] <= i // 16 < tiles[3]):
                    continue
                offset = ray * (normal @ centre) / (normal @ ray) - centre
                rho = sum((offset @ t / (t @ t)) ** 2 for t in tangents.T)
                rho = min(rho, 2 * ((np.array([j + 0.5, i + 0.5]) - middle) ** 2).sum())
                alpha = min(0.999, float(scene.opacities[g]) * math.exp(-rho / 2))
                if alpha < 1 / 255:
                    continue
                if T * (1 - alpha) <= 1e-4:
                    break
                median = z if T > 0.5 else median
                hits.append((alpha * T, z, g, normal))
                T *= 1 - alpha
            background = 0 if scene.background is None else scene.background.numpy()
            out["color"][i, j] = sum(w * scene.colors[g].numpy() for w, _, g, _ in hits) + T * background
            out["alpha"][i, j] = 1 - T
            out["depth"][i, j] = sum(w * z for w, z, _, _ in hits) / (1 - T) if hits else 0
            out["median_depth"][i, j] = median
            out["normal"][i, j] = to_world @ sum((w * n for w, _, _, n in hits), np.zeros(3))
            pairs = [(a, b) for k, a in enumerate(hits) for b in hits[:k]]
            out["distortion"][i, j] = sum(2 * a[0] * b[0] * (a[1] - b[1]) for a, b in pairs)
    return out
