"""Which rasteriser is chosen, and what is said when it cannot be."""

import logging
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from genfusion_ns.errors import UserError
from genfusion_ns.raster import choose_rasterizer
from genfusion_ns.raster.numba import rasterizer


def test_a_cpu_gets_numba_and_the_log_says_so(caplog):
    with caplog.at_level(logging.INFO, logger="genfusion_ns.raster"):
        assert choose_rasterizer().name == "numba"
    assert "Rasteriser: numba on cpu." in caplog.text


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_numba_is_also_taken_where_gradients_are_off(mode):
    """As in evaluation and in the viewer."""
    with mode():
        assert choose_rasterizer().name == "numba"


def test_torch_is_the_fallback(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "numba.core.errors", None)  # as if numba were not installed
    assert choose_rasterizer("auto", "cpu").name == "torch"
    assert "numba cannot be used" in caplog.text and "40 times slower" in caplog.text


def test_kernels_that_do_not_compile(monkeypatch):
    from numba.core.errors import TypingError

    def fail():
        raise TypingError("no such overload")

    monkeypatch.setattr(rasterizer, "warm_up", fail)
    assert choose_rasterizer("auto").name == "torch"
    with pytest.raises(UserError, match="numba rasteriser cannot be used here: its kernels did not compile"):
        choose_rasterizer("numba")


def test_by_name():
    assert choose_rasterizer("torch").name == "torch"
    assert choose_rasterizer("numba", torch.device("cpu")).name == "numba"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="no rasteriser 'cuda'; expected one of auto, gsplat, numba, torch"):
        choose_rasterizer("cuda")  # type: ignore[arg-type]


def test_gsplat_needs_cuda():
    with pytest.raises(UserError, match="gsplat rasteriser runs on cuda only, and this run is on cpu"):
        choose_rasterizer("gsplat", "cpu")


def test_numba_needs_a_cpu():
    with pytest.raises(UserError, match="numba rasteriser runs on cpu only, and this run is on cuda:0"):
        choose_rasterizer("numba", "cuda:0")


@pytest.mark.parametrize("name", ["auto", "gsplat"])
def test_gsplat_without_its_cuda_code_says_what_to_do(monkeypatch, name):
    pytest.importorskip("gsplat")
    import gsplat.cuda

    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=None))
    monkeypatch.setattr(gsplat.cuda, "_backend", SimpleNamespace(_C=None), raising=False)
    with pytest.raises(UserError, match="no CUDA compiler") as caught:
        choose_rasterizer(name, "cuda")
    assert "choose the rasteriser 'torch'" in str(caught.value)


def test_gsplat_is_taken_on_cuda(monkeypatch):
    pytest.importorskip("gsplat")
    import gsplat.cuda

    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=object()))
    monkeypatch.setattr(gsplat.cuda, "_backend", SimpleNamespace(_C=object()), raising=False)
    assert choose_rasterizer("auto", "cuda").name == "gsplat"


def test_slow_compilation_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(rasterizer, "_SLOW_COMPILE_SECONDS", 0.0)
    announced = threading.Event()
    announce, render = rasterizer._announce_compilation, rasterizer.NumbaRasterizer.__call__

    def slow(self, *args, **kwargs):
        assert announced.wait(20)
        return render(self, *args, **kwargs)

    monkeypatch.setattr(rasterizer, "_announce_compilation", lambda: (announce(), announced.set()))
    monkeypatch.setattr(rasterizer.NumbaRasterizer, "__call__", slow)
    rasterizer.warm_up()
    assert "Compiling the CPU rasteriser" in capsys.readouterr().err


def test_fast_start_is_silent(capsys):
    rasterizer.warm_up()
    capsys.readouterr()
    rasterizer.warm_up()
    assert capsys.readouterr().err == ""
