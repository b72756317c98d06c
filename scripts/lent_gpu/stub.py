"""Stands in for a package that ns-train imports and a training does not use; reads point clouds as Open3D does."""

from __future__ import annotations

import sys
import types
from typing import Any

__path__: list[str] = []


class _Anything(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub

    def __getitem__(cls, key: object) -> Any:
        return cls


class Stub(metaclass=_Anything):
    """Has every attribute, can be called, subclassed and subscripted."""

    def __init__(self, *args: object, **options: object) -> None: ...

    def __call__(self, *args: object, **options: object) -> Any:
        return self


def _read_point_cloud(path: str) -> types.SimpleNamespace:
    import numpy as np
    import trimesh

    cloud: Any = trimesh.load(path)
    colours = np.asarray(cloud.colors)[:, :3] / 255.0
    return types.SimpleNamespace(points=np.asarray(cloud.vertices, float), colors=colours)


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if (__name__, name) == ("open3d", "io"):
        return types.SimpleNamespace(read_point_cloud=_read_point_cloud)
    return sys.modules[__name__].Stub
