"""Photos of procedural scenes: Open3D's ray caster (Embree) with supersampling, soft shadows and highlights.

Shading is Lambert plus Blinn-Phong under area lamps and a two-coloured sky, in linear light, shown with gamma 2.2.
Every sub-pixel aims at its own point of each lamp, the same in all pixels, so that shadows are soft without noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import trimesh
from numpy.typing import NDArray

from genfusion_ns.cameras import Camera, pixel_rays
from genfusion_ns.synthetic.textures import Texture

Array = NDArray[np.floating]

_SKIN = 1e-4  # metres by which a shadow ray starts above its surface


@dataclass(frozen=True)
class Thing:
    """One object: a mesh in its own space, where it stands, and how it looks."""

    mesh: trimesh.Trimesh
    texture: Texture
    pose: Array = field(default_factory=lambda: np.eye(4))
    """[4, 4] object to world; may scale."""
    smooth: bool = False
    """Shade with interpolated vertex normals (balls, vases) instead of one normal per face (boxes)."""
    gloss: float = 0.0
    """Strength of the highlight; 0 = matt."""


@dataclass(frozen=True)
class Lamp:
    """A square lamp facing down."""

    position: tuple[float, float, float]
    color: tuple[float, float, float]
    """Linear irradiance at one metre; falls with the square of the distance."""
    size: float = 0.3
    """Side in metres; larger lamps cast softer shadows."""


@dataclass(frozen=True)
class Scene:
    """Things under light."""

    things: tuple[Thing, ...]
    lamps: tuple[Lamp, ...]
    sky: tuple[float, float, float] = (0.35, 0.37, 0.4)
    """Light from above, and what rays that hit nothing see."""
    ground: tuple[float, float, float] = (0.2, 0.18, 0.16)
    """Light from below."""


@dataclass(frozen=True)
class Photo:
    """What a camera sees."""

    rgb: NDArray[np.uint8]
    """[H, W, 3], gamma 2.2."""
    depth: NDArray[np.float32]
    """[H, W] exact z-depth in metres along the ray through the pixel's centre; 0 = nothing there."""


class Studio:
    """A scene loaded into the ray caster, ready to take photos."""

    def __init__(self, scene: Scene) -> None:
        import open3d as o3d  # a second to import: only when it is needed

        self.scene = scene
        self._caster = o3d.t.geometry.RaycastingScene()
        self._tensor = o3d.core.Tensor.from_numpy
        self._normals: list[Array] = []
        self._to_object = [np.linalg.inv(thing.pose) for thing in scene.things]
        for thing in scene.things:
            world = thing.mesh.copy()
            world.apply_transform(thing.pose)
            vertices = np.ascontiguousarray(world.vertices, np.float32)
            faces = np.ascontiguousarray(world.faces, np.uint32)
            self._caster.add_triangles(self._tensor(vertices), self._tensor(faces))
            corners = (
                np.asarray(world.vertex_normals)[world.faces]
                if thing.smooth
                else np.repeat(np.asarray(world.face_normals)[:, None], 3, axis=1)
            )
            self._normals.append(corners.astype(np.float32))

    def photo(self, camera: Camera, supersample: int = 3) -> Photo:
        """Photograph the scene. An odd `supersample` (sub-pixels per side) puts one sub-pixel on each pixel's centre,
        from which the depth is read.

        Raises:
            ValueError: `supersample` is even or less than 1.
        """
        if supersample < 1 or supersample % 2 == 0:
            raise ValueError(f"supersample is {supersample}; the depth needs an odd number: 1, 3, 5, ...")
        fine = camera.resized(camera.width * supersample, camera.height * supersample)
        rays = pixel_rays(fine).double()
        directions = (rays @ fine.w2c[:3, :3].double()).numpy().reshape(-1, 3)
        color, depth = self._look(camera.position.double().numpy(), directions, _aims(fine, supersample))
        blocks = color.reshape(camera.height, supersample, camera.width, supersample, 3)
        linear = blocks.mean(axis=(1, 3))
        middle = supersample // 2
        centre = depth.reshape(fine.height, fine.width)[middle::supersample, middle::supersample]
        rgb = np.round(255.0 * np.clip(linear, 0.0, 1.0) ** (1 / 2.2)).astype(np.uint8)
        return Photo(rgb, np.ascontiguousarray(centre, np.float32))

    def _look(self, origin: Array, directions: Array, aim: Array) -> tuple[Array, Array]:
        """Linear colours [N, 3] and ray parameters [N] (0 = miss) along `directions` [N, 3] (z = 1 in the camera)."""
        rays = np.concatenate([np.broadcast_to(origin, directions.shape), directions], -1).astype(np.float32)
        hit = self._caster.cast_rays(self._tensor(rays))
        depth = hit["t_hit"].numpy()
        seen = np.isfinite(depth)
        color = np.broadcast_to(np.asarray(self.scene.sky), directions.shape).copy()
        owner = hit["geometry_ids"].numpy()[seen].astype(np.int64)
        face = hit["primitive_ids"].numpy()[seen].astype(np.int64)
        normals = self._shading_normals(owner, face, hit["primitive_uvs"].numpy()[seen])
        towards = -directions[seen] / np.linalg.norm(directions[seen], axis=1, keepdims=True)
        normals = np.where((normals * towards).sum(-1, keepdims=True) < 0, -normals, normals)
        points = origin + directions[seen] * depth[seen, None]
        color[seen] = self._albedo(points, owner) * self._diffuse(points, normals, aim[seen])
        color[seen] += self._highlight(points, normals, towards, owner)
        return color, np.where(seen, depth, 0.0)

    def _shading_normals(self, owner: NDArray[np.int64], face: NDArray[np.int64], uv: Array) -> Array:
        corners = np.empty((len(owner), 3, 3), np.float32)
        for index in np.unique(owner):
            mine = owner == index
            corners[mine] = self._normals[index][face[mine]]
        weight = np.column_stack([1.0 - uv.sum(-1), uv])
        normals = (corners * weight[:, :, None]).sum(axis=1)
        return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)

    def _albedo(self, points: Array, owner: NDArray[np.int64]) -> Array:
        color = np.empty_like(points)
        for index in np.unique(owner):
            mine = owner == index
            local = trimesh.transformations.transform_points(points[mine], self._to_object[index])
            color[mine] = self.scene.things[index].texture(local)
        return color

    def _diffuse(self, points: Array, normals: Array, aim: Array) -> Array:
        """Light that arrives [N, 3]: the sky from above, the ground from below, and each lamp unless it is hidden."""
        upness = 0.5 + 0.5 * normals[:, 2:]
        light = upness * np.asarray(self.scene.sky) + (1.0 - upness) * np.asarray(self.scene.ground)
        for lamp in self.scene.lamps:
            spot = np.column_stack([aim * lamp.size, np.zeros(len(aim))])
            offset = np.asarray(lamp.position) + spot - points
            distance = np.linalg.norm(offset, axis=1, keepdims=True)
            towards = offset / distance
            facing = np.clip((normals * towards).sum(-1, keepdims=True), 0.0, None) * np.clip(towards[:, 2:], 0.0, None)
            rays = np.concatenate([points + normals * _SKIN, offset], -1).astype(np.float32)
            hidden = self._caster.test_occlusions(self._tensor(rays), tnear=0.0, tfar=0.999).numpy()
            light = light + np.where(hidden[:, None], 0.0, facing / distance**2) * np.asarray(lamp.color)
        return light

    def _highlight(self, points: Array, normals: Array, towards: Array, owner: NDArray[np.int64]) -> Array:
        gloss = np.array([thing.gloss for thing in self.scene.things])[owner]
        total = np.zeros_like(points)
        for lamp in self.scene.lamps:
            to_lamp = np.asarray(lamp.position) - points
            to_lamp /= np.linalg.norm(to_lamp, axis=1, keepdims=True)
            half = to_lamp + towards
            half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-12)
            shine = gloss * np.clip((normals * half).sum(-1), 0.0, 1.0) ** 24
            total += shine[:, None] * np.asarray(lamp.color) / np.max(lamp.color)
        return total


def _aims(camera: Camera, supersample: int) -> Array:
    """[H * W, 2] where on a lamp each sub-pixel aims, in [-0.5, 0.5): evenly spread (Roberts' R2 sequence), the same
    for all pixels."""
    y, x = np.mgrid[: camera.height, : camera.width] % supersample
    step = np.array([0.7548776662466927, 0.5698402909980532])
    return ((y * supersample + x).reshape(-1, 1) * step + 0.5) % 1.0 - 0.5
