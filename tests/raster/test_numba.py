"""The numba rasteriser against the torch reference, finite differences, and itself on other threads."""

import threading
from dataclasses import replace

import pytest
import torch
from raster_scenes import MAPS, gradients, random_scene, relative

from genfusion_ns.raster.numba.rasterizer import NumbaRasterizer
from genfusion_ns.raster.torch_reference import TorchRasterizer

TORCH, NUMBA = TorchRasterizer(), NumbaRasterizer()
F32, F64 = torch.float32, torch.float64
CASES = [
    pytest.param({"count": 150}, id="harmonics"),
    pytest.param({"count": 150, "size": 0.02}, id="small splats"),
    pytest.param({"count": 60, "size": 2.0}, id="splats through the camera plane"),
    pytest.param({"count": 400, "width": 50, "height": 33, "size": 0.4}, id="saturated"),
    pytest.param({"count": 100, "channels": 1}, id="1 channel"),
    pytest.param({"count": 100, "channels": 2}, id="2 channels"),
    pytest.param({"count": 100, "channels": 4}, id="4 channels"),
    pytest.param({"count": 100, "channels": 9}, id="9 channels"),
]


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_torch_in_double_precision(case):
    scene = random_scene(seed=1, **case)
    expected, expected_gradients = gradients(scene, TORCH)
    actual, actual_gradients = gradients(scene, NUMBA)
    for name in MAPS:
        difference = (getattr(actual, name) - getattr(expected, name)).abs().max()
        assert difference <= 1e-10, name
    assert torch.equal(actual.radii, expected.radii)
    assert len(actual_gradients) == 7
    for k, (a, b) in enumerate(zip(actual_gradients, expected_gradients, strict=True)):
        assert b.norm() > 0
        assert relative(a, b) <= 1e-9, k


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_lower_degrees_leave_the_other_coefficients_alone(degree):
    scene = replace(random_scene(40, 2), sh_degree=degree)
    _, expected = gradients(scene, TORCH)
    _, actual = gradients(scene, NUMBA)
    assert relative(actual[4], expected[4]) <= 1e-9
    assert relative(actual[0], expected[0]) <= 1e-9
    assert actual[4][:, (degree + 1) ** 2 :].abs().sum() == 0


def test_single_precision_gradients():
    scene = random_scene(300, 3, width=64, height=48)
    _, exact = gradients(scene, TORCH)
    _, single = gradients(scene.to(F32), NUMBA)
    for k, (a, b) in enumerate(zip(single, exact, strict=True)):
        assert a.dtype == F32
        assert relative(a.double(), b) <= 2e-3, k


def test_single_precision_images():
    scene = random_scene(300, 4, width=64, height=48)
    expected, actual = scene.render(TORCH), scene.to(F32).render(NUMBA)
    for name in ("color", "alpha", "normal"):
        difference = (getattr(actual, name).double() - getattr(expected, name)).abs()
        # A contribution next to the cut of 1/255 may be on either side of it.
        assert difference.max() < 0.02 and difference.mean() < 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("channels", [None, 5])
def test_gradcheck(channels):
    scene = random_scene(5, 5, width=11, height=9, channels=channels, size=0.5)
    # The median depth jumps from splat to splat and the cut at 1/255 is a step, but not within the tiny steps of
    # gradcheck; opacities stay clear of the cap.
    opacities = scene.opacities.clamp(0.05, 0.9)
    inputs = [scene.means, scene.quats, scene.scales, opacities, scene.colors, scene.background]
    inputs = [t.clone().requires_grad_(True) for t in inputs]

    def maps(means, quats, scales, opacities, colors, background):
        r = NUMBA(
            means, quats, scales, opacities, colors, scene.camera, sh_degree=scene.sh_degree, background=background
        )
        return tuple(getattr(r, name) for name in MAPS)

    assert torch.autograd.gradcheck(maps, inputs, eps=1e-7, atol=1e-5, rtol=1e-4)


def _bits(scene, rasterizer):
    render, grads = gradients(scene, rasterizer)
    return [getattr(render, name).detach() for name in MAPS] + [render.radii, *grads]


def _same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [None, 5])
def test_bitwise_repeatable_for_any_number_of_threads(channels):
    scene = random_scene(3000, 6, width=100, height=70, size=0.1, channels=channels).to(F32)
    first = _bits(scene, NumbaRasterizer(threads=1))
    for threads in (1, 2, 2, 3, 7):
        assert _same(first, _bits(scene, NumbaRasterizer(threads=threads))), threads


def test_three_python_threads_at_once():
    scenes = [random_scene(2500, seed, width=90, height=60, size=0.1).to(F32) for seed in (7, 8, 9)]
    rasterizer = NumbaRasterizer(threads=2)
    alone = [_bits(scene, rasterizer) for scene in scenes]
    wrong, done = [], []

    def work(k):
        for _ in range(6):
            if not _same(alone[k], _bits(scenes[k], rasterizer)):
                wrong.append(k)
        done.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(done) == [0, 1, 2]
    assert not wrong


@pytest.mark.parametrize("name", MAPS)
def test_gradients_of_one_map_alone(name):
    """The others' gradients are then None inside autograd."""
    scene = random_scene(60, 10)
    results = []
    for rasterizer in (TORCH, NUMBA):
        attached = scene.attach()
        getattr(attached.render(rasterizer), name).square().sum().backward()
        results.append([leaf.grad for leaf in attached.leaves()])
    for a, b in zip(*results, strict=True):
        b = torch.zeros_like(a) if b is None else b
        assert relative(b, torch.zeros_like(b) if a is None else a) <= 1e-9


def test_backward_twice_gives_the_same():
    attached = random_scene(50, 11).attach()
    loss = attached.render(NUMBA).color.square().sum()
    first = torch.autograd.grad(loss, attached.leaves(), retain_graph=True)
    assert _same(first, torch.autograd.grad(loss, attached.leaves()))


def test_changing_an_input_in_place_before_backward_is_noticed():
    attached = random_scene(10, 12).attach()
    loss = attached.render(NUMBA).color.sum()
    with torch.no_grad():
        attached.means += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_takes_strided_inputs():
    scene = random_scene(50, 14)
    strided = replace(scene, means=torch.stack([scene.means, scene.means], 1)[:, 0])
    assert not strided.means.is_contiguous()
    assert torch.equal(strided.render(NUMBA).color, scene.render(NUMBA).color)


def test_refuses_other_dtypes():
    scene = random_scene(3, 15).to(torch.float16)
    with pytest.raises(ValueError, match="float32 or float64 on the CPU, not torch.float16"):
        scene.render(NUMBA)
