"""The CPU rasteriser: numba kernels on a thread pool, behind one autograd function."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.autograd.function import once_differentiable

from genfusion_ns.cameras import Camera
from genfusion_ns.raster.api import Rasterizer, Render, Splats
from genfusion_ns.raster.numba import layout
from genfusion_ns.raster.numba.bins import bin_splats, sort_by_depth
from genfusion_ns.raster.numba.layout import RECORD, SLOT, Lists, Maps, Progress
from genfusion_ns.raster.numba.projection import project_backward, project_forward
from genfusion_ns.raster.numba.shade import shade_backward, shade_forward
from genfusion_ns.raster.numba.threads import even_bounds, run_ranges
from genfusion_ns.raster.numba.tiles import composite_backward, composite_forward

_REALS = {torch.float32: np.float32, torch.float64: np.float64}
_SLOW_COMPILE_SECONDS = 2.0


@dataclass(frozen=True)
class _Call:
    """What one call's forward and backward pass share, apart from tensors."""

    view: layout.View
    limits: layout.Limits
    bands: int
    """SH coefficients in use; 0 = plain colours."""
    threads: int


@dataclass
class _State:
    """What the backward pass needs, apart from tensors that the caller sees."""

    call: _Call
    homographies: np.ndarray
    splats: layout.Splats
    more_colors: np.ndarray | None
    lists: Lists
    background: np.ndarray
    progress: Progress

    def composited(self) -> tuple[layout.Splats, np.ndarray | None, Lists, np.ndarray, layout.Limits]:
        """What both compositing kernels read."""
        return self.splats, self.more_colors, self.lists, self.background, self.call.limits


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _tile_bounds(offsets: np.ndarray, threads: int) -> list[int]:
    """Ranges of tiles with about equal numbers of pairs, some per thread; an empty tile counts as a few."""
    tiles = len(offsets) - 1
    chunks = 1 if threads == 1 else min(tiles, 8 * threads)
    load = offsets + 16 * np.arange(tiles + 1)
    inner = np.searchsorted(load, load[-1] * np.arange(1, chunks) / chunks)
    return [0, *inner.tolist(), tiles]


def _project(
    call: _Call, means: np.ndarray, quats: np.ndarray, scales: np.ndarray, opacities: np.ndarray, colors: np.ndarray
) -> tuple[np.ndarray, layout.Splats, np.ndarray, Lists]:
    """Homographies, splats, radii and tile lists of a view."""
    count, real = len(means), means.dtype
    homographies, records = np.empty((count, 9), real), np.empty((count, RECORD), real)
    boxes, radii, tile_counts = np.empty((count, 4), np.int32), np.empty(count, np.int32), np.empty(count, np.int32)
    view, projected = call.view, (homographies, records, boxes, radii, tile_counts)

    def task(first: int, last: int) -> None:
        project_forward(first, last, means, quats, scales, opacities, view, call.limits, *projected)
        shade_forward(first, last, means, colors, call.bands, view.eye, records, radii, tile_counts)

    run_ranges(task, even_bounds(count, call.threads), call.threads)
    bits = np.uint32 if real == np.float32 else np.uint64
    order = sort_by_depth(homographies[:, 8].copy().view(bits), tile_counts)
    lists = bin_splats(order, boxes, tile_counts, -(-view.width // 16), -(-view.height // 16))
    return homographies, layout.Splats(records, boxes), radii, Lists(*lists)


class _Rasterize(torch.autograd.Function):
    """(means, quats, scales, opacities, colors [N, K], background, densify_signal) to maps and radii."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        background: Tensor,
        densify_signal: Tensor,
        call: _Call,
    ) -> tuple[Tensor, ...]:
        features = _array(colors)
        homographies, splats, radii, lists = _project(
            call, _array(means), _array(quats), _array(scales), _array(opacities), features
        )
        more = None
        if call.bands == 0 and features.shape[1] > 3:
            more = np.ascontiguousarray(features[:, 3:])
        height, width, real = call.view.height, call.view.width, features.dtype
        channels = [len(background), 1, 1, 1, 3, 1]
        maps = Maps(*(np.empty((height, width, c), real) for c in channels))
        stops, medians = (np.empty((height, width), np.int32) for _ in range(2))
        progress = Progress(stops, medians, np.empty((len(lists.splats), 2), np.int8))
        state = _State(call, homographies, splats, more, lists, _array(background), progress)
        run_ranges(
            lambda first, last: composite_forward(first, last, *state.composited(), maps, progress),
            _tile_bounds(lists.offsets, call.threads),
            call.threads,
        )
        outputs = tuple(torch.from_numpy(m) for m in maps)
        ctx.state = state
        # Saved through torch, so that it notices when someone has changed them in place since.
        ctx.save_for_backward(means, quats, scales, colors, *outputs)
        ctx.set_materialize_grads(False)
        visible = torch.from_numpy(radii)
        ctx.mark_non_differentiable(visible)
        return *outputs, visible

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *map_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        means, quats, scales, colors, *outputs = ctx.saved_tensors
        state: _State = ctx.state
        maps = Maps(*(_array(m) for m in outputs))
        grads = Maps(*(np.zeros_like(m) if g is None else _array(g) for m, g in zip(maps, map_grads[:-1], strict=True)))
        slots, more_slots = _composite_backward(state, maps, grads)
        to = _project_backward(state, _array(means), _array(quats), _array(scales), _array(colors), slots, more_slots)
        to_background = None
        if ctx.needs_input_grad[5]:
            # Summed by numpy, whose order does not depend on the number of threads.
            to_background = torch.from_numpy(((1 - maps.alpha) * grads.color).sum((0, 1)))
        to_means, to_quats, to_scales, to_opacities, to_colors, to_densify = map(torch.from_numpy, to)
        return to_means, to_quats, to_scales, to_opacities, to_colors, to_background, to_densify, None


def _composite_backward(state: _State, maps: Maps, grads: Maps) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of all pairs of splat and tile: [M, SLOT] and [M, E]."""
    call, lists, real = state.call, state.lists, maps.color.dtype
    pairs = len(lists.splats)
    slots = np.empty((pairs, SLOT), real)
    more_slots = np.empty((pairs, 0 if state.more_colors is None else state.more_colors.shape[1]), real)
    results = (slots, more_slots)
    run_ranges(
        lambda first, last: composite_backward(first, last, *state.composited(), maps, grads, state.progress, *results),
        _tile_bounds(lists.offsets, call.threads),
        call.threads,
    )
    return results


def _project_backward(
    state: _State,
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    colors: np.ndarray,
    slots: np.ndarray,
    more_slots: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Gradients by means, quats, scales, opacities, colours and densification signal."""
    call, count, real = state.call, len(means), means.dtype
    records, starts = state.splats.records, state.lists.starts
    sums, view = np.empty((count, SLOT), real), call.view
    to_means, to_quats, to_scales = (np.empty((count, width), real) for width in (3, 4, 3))
    to_opacities, to_colors, to_densify = np.empty(count, real), np.empty_like(colors), np.empty((count, 2), real)
    read = (state.homographies, records, starts, slots, sums)
    written = (to_means, to_quats, to_scales, to_opacities, to_densify)

    def task(first: int, last: int) -> None:
        project_backward(first, last, quats, scales, view, *read, *written)
        colour_gradients = (records, starts, sums, more_slots, to_means, to_colors)
        shade_backward(first, last, means, colors, call.bands, view.eye, *colour_gradients)

    run_ranges(task, even_bounds(count, call.threads), call.threads)
    return to_means, to_quats, to_scales, to_opacities, to_colors, to_densify


class NumbaRasterizer(Rasterizer):
    """Rasteriser for CPUs. The result is the same, bit for bit, for any number of threads; several Python threads may
    render at once."""

    name = "numba"

    def __init__(self, threads: int | None = None):
        """`threads`: how many threads to use; by default as many as torch does."""
        self.threads = threads

    def render(
        self, splats: Splats, camera: Camera, sh_degree: int | None, background: Tensor | None, near: float, far: float
    ) -> Render:
        means, quats, scales, opacities, colors = splats
        if means.dtype not in _REALS or means.device.type != "cpu":
            raise ValueError(
                f"The numba rasteriser takes float32 or float64 on the CPU, not {means.dtype} on {means.device}."
            )
        real = _REALS[means.dtype]
        bands = 0 if sh_degree is None else (sh_degree + 1) ** 2
        view, limits = layout.view_of(camera, near, far, real), layout.limits_of(real)
        call = _Call(view, limits, bands, self.threads or torch.get_num_threads())
        features = colors.flatten(1)
        if background is None:
            background = means.new_zeros(colors.shape[-1])
        densify_signal = torch.zeros(len(means), 2, dtype=means.dtype, requires_grad=True)
        *maps, radii = _Rasterize.apply(means, quats, scales, opacities, features, background, densify_signal, call)
        color, alpha, depth, median_depth, normal, distortion = maps
        return Render(color, alpha, depth, median_depth, normal, distortion, radii, densify_signal)


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache, by rendering one splat. Says so on the console when it
    takes long, as it does once per machine and version."""
    notice = threading.Timer(_SLOW_COMPILE_SECONDS, _announce_compilation)
    notice.daemon = True
    notice.start()
    try:
        # Evaluation and the viewer choose their rasteriser while gradients are off.
        with torch.inference_mode(False), torch.enable_grad():
            eye = torch.eye(4)
            means, quats, scales, opacities = eye[2:3, :3], eye[:1], 0.1 + eye[:1, :3], eye[0, :1]
            colors = torch.zeros(1, 16, 3, requires_grad=True)
            camera = Camera(eye, eye[:3, :3], 4, 4)
            render = NumbaRasterizer(threads=1)(means, quats, scales, opacities, colors, camera, sh_degree=3)
            render.color.sum().backward()
    finally:
        notice.cancel()


def _announce_compilation() -> None:
    Console(stderr=True).print(
        "Compiling the CPU rasteriser: some 10 seconds on an idle machine, and only this once.", highlight=False
    )
