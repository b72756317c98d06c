"""Training scenes from captures: depth from a fit of all photos where views agree, and from tracks elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.data.colmap import ColmapModel, read_model
from genfusion_ns.data.sequences import within_unit
from genfusion_ns.data.transforms import frame_camera, read_transforms
from genfusion_ns.gaussians.densify_sparse import SparsityAwareDensifier
from genfusion_ns.gaussians.fit import Fit, FitConfig, FitView
from genfusion_ns.geometry import nearest_views
from genfusion_ns.raster import choose_rasterizer
from genfusion_ns.stereo.fusion import AGREE, support
from genfusion_ns.stereo.posed_photos import PhotoDepth, PosedPhoto
from genfusion_ns.stereo.train.scenes import write_views

FIT_STEPS = 3000
"""At 288 pixels the five captures' fits are sharp after so many."""
SUPPORT = 2.0
"""Views that must agree with a fitted depth."""


def write_capture(path: Path, folder: Path, longest: int = 288, fitted: bool = True) -> None:
    """Write the photos of a capture with a COLMAP model at sparse/0, undistorted and reduced to `longest` pixels; with
    `fitted` their depth is that of a fit where views agree, which takes minutes, else that of tracks alone.

    Raises:
        UserError: the capture cannot be read.
    """
    file = folder / "transforms.json"
    meta = read_transforms(file)
    listed = sorted(meta["frames"], key=lambda frame: Path(frame["file_path"]).name)
    model = read_model(folder / "sparse/0")
    photos, full = [], []
    for frame in listed:
        photo, camera = straightened(folder / frame["file_path"], *frame_camera(file, meta, frame))
        small = camera.limited(longest)
        photo = photo.resize((small.width, small.height), Image.Resampling.BOX)
        photos.append(torch.from_numpy(np.asarray(photo).copy()).float() / 255)
        full.append(small)
    cameras, scale = within_unit(full)
    names = [Path(frame["file_path"]).name for frame in listed]
    tracked = [track_depth(model, name, camera) * scale for name, camera in zip(names, full, strict=True)]
    depth = np.stack(tracked)
    if fitted:
        small = [camera.to("cpu", torch.float32) for camera in cameras]
        depth = np.where(depth > 0, depth, fitted_depths(photos, small, tracked))
    write_views(path, np.stack([(255 * photo).round().byte().numpy() for photo in photos]), depth, cameras)


def straightened(path: Path, camera: Camera, distortion: NDArray[np.float64]) -> tuple[Image.Image, Camera]:
    """A photo without lens distortion (OpenCV's five numbers), cut to the largest rectangle that it then fills."""
    with Image.open(path) as image:
        photo = image.convert("RGB")
    if not distortion.any():
        return photo, camera
    K, whole = camera.K.numpy(), (camera.width, camera.height)
    straight, (x, y, w, h) = cv2.getOptimalNewCameraMatrix(K, distortion, whole, 0)
    pixels = cv2.undistort(np.asarray(photo), K, distortion, None, straight)
    cut = Image.fromarray(pixels).crop((x, y, x + w, y + h))
    return cut, replace(camera, K=torch.from_numpy(straight)).window(x, y, w, h)


def track_depth(model: ColmapModel, name: str, camera: Camera) -> NDArray[np.float64]:
    """[H, W] depth of the points that a photo observes, 0 elsewhere; the nearest wins a pixel."""
    depth = np.zeros((camera.height, camera.width))
    image = [Path(known).name for known in model.names].index(name)
    mine = model.tracks.where(model.tracks.image == image)
    z = ((model.xyz[mine.point] - model.c2w[image, :3, 3]) @ model.c2w[image, :3, :3])[:, 2]
    x = np.floor(mine.ray[:, 0] * float(camera.K[0, 0]) + float(camera.K[0, 2])).astype(int)
    y = np.floor(mine.ray[:, 1] * float(camera.K[1, 1]) + float(camera.K[1, 2])).astype(int)
    keep = (z > 0) & (x >= 0) & (y >= 0) & (x < camera.width) & (y < camera.height)
    for k in np.argsort(-z):
        if keep[k]:
            depth[y[k], x[k]] = z[k]
    return depth


def fitted_depths(photos: list[Tensor], cameras: list[Camera], tracked: list[NDArray]) -> list[NDArray[np.float64]]:
    """[H, W] rendered depth of a fit of all photos where enough other views agree, 0 elsewhere."""
    views = [FitView(camera, photo) for camera, photo in zip(cameras, photos, strict=True)]
    xyz, rgb = _track_points(photos, cameras, tracked)
    config = FitConfig(
        run_length=FIT_STEPS,
        densifier=SparsityAwareDensifier(start=500, stop=5000, every=100, reset_every=0, max_gaussians=40_000),
    )
    fit = Fit(views, xyz, rgb, choose_rasterizer("auto", "cpu"), config)
    fit.advance(FIT_STEPS)
    renders = [fit.render(camera) for camera in cameras]
    none = torch.zeros(0)
    posed = [PosedPhoto(c, p, none.reshape(0, 2), none, (1.0, 1.0)) for c, p in zip(cameras, photos, strict=True)]
    depths = [
        PhotoDepth(
            torch.where(r.alpha > 0.9, r.depth, 1e6).clamp_min(1e-6), (r.alpha > 0.9).float(), torch.ones_like(r.depth)
        )
        for r in renders
    ]
    found = []
    for i, depth in enumerate(depths):
        others = nearest_views(cameras[i], cameras, 9)[1:]
        agreed = support(i, posed, depths, others, AGREE / 2).agree >= SUPPORT
        found.append((depth.depth * agreed * depth.confidence)[..., 0].double().numpy())
    return found


def _track_points(photos: list[Tensor], cameras: list[Camera], tracked: list[NDArray]) -> tuple[Tensor, Tensor]:
    """The tracks' points [P, 3] and colours [P, 3] in [0, 1], one per observation, thinned to 20,000."""
    xyz, rgb = [], []
    for photo, camera, depth in zip(photos, cameras, tracked, strict=True):
        v, u = np.nonzero(depth)
        rays = np.stack([u + 0.5, v + 0.5, np.ones(len(u))], -1) @ np.linalg.inv(camera.K.double().numpy()).T
        local = rays * depth[v, u, None]
        w2c = camera.w2c.double().numpy()
        xyz.append((local - w2c[:3, 3]) @ w2c[:3, :3])
        rgb.append(photo.numpy()[v, u])
    points, colours = np.concatenate(xyz), np.concatenate(rgb)
    kept = np.random.default_rng(0).permutation(len(points))[:20_000]
    return torch.from_numpy(points[kept]).float(), torch.from_numpy(colours[kept]).float()
