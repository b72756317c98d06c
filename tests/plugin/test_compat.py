"""Each mend of Nerfstudio 1.1.5, and that the fault is there without it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn

from genfusion_ns.errors import UserError
from genfusion_ns.plugin import compat


@pytest.mark.slow
def test_numpy_scalars_in_old_checkpoints_load(tmp_path):
    """In a process of its own, since the mend acts on the whole process: refused before, loaded after."""
    torch.save({"lr": np.float64(1e-3)}, tmp_path / "old.ckpt")
    program = f"""
import torch
try:
    torch.load({str(tmp_path / "old.ckpt")!r}, weights_only=True)
    print("loaded before")
except Exception:
    print("refused before")
from genfusion_ns.plugin import compat
compat.allow_numpy_scalars_in_checkpoints()
print("value", float(torch.load({str(tmp_path / "old.ckpt")!r}, weights_only=True)["lr"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "refused before" in done.stdout and "value 0.001" in done.stdout


def test_resize_keeps_the_parameters_that_the_optimiser_holds():
    params = nn.ParameterDict({"means": nn.Parameter(torch.zeros(3, 3)), "quats": nn.Parameter(torch.zeros(3, 4))})
    optimizer = torch.optim.Adam([params["means"]], lr=0.1)
    state = {"p.means": torch.ones(5, 3), "p.quats": torch.ones(5, 4)}
    compat.resize_gaussians_in_place(params, state, prefix="p.")
    assert params["means"] is optimizer.param_groups[0]["params"][0]
    assert params["means"].shape == (5, 3) and params["quats"].shape == (5, 4)
    params["means"].sum().backward()
    optimizer.step()
    assert (params["means"] != 0).all()


class CountingLpips(nn.Module):
    built = 0

    def __init__(self, normalize):
        super().__init__()
        assert normalize
        CountingLpips.built += 1

    def forward(self, target, image):
        assert target.min() >= 0 and image.max() <= 1  # torchmetrics refuses values outside of [0, 1]
        return (target - image).abs().mean()


def test_lpips_is_built_once_and_late(monkeypatch):
    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", CountingLpips)
    CountingLpips.built = 0
    lpips = compat.LazyLpips()
    assert CountingLpips.built == 0
    for _ in range(2):
        assert lpips(torch.full((1, 3, 40, 40), 1.5), torch.zeros(1, 3, 40, 40)) == 1.0
    assert CountingLpips.built == 1
    assert lpips(torch.zeros(1, 3, 20, 40), torch.zeros(1, 3, 20, 40)) is None  # too small for AlexNet


def test_lpips_without_weights_says_so_once(monkeypatch, capsys):
    def offline(normalize):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", offline)
    lpips = compat.LazyLpips()
    images = torch.zeros(1, 3, 40, 40), torch.zeros(1, 3, 40, 40)
    assert lpips(*images) is None and lpips(*images) is None
    said = capsys.readouterr().out
    assert said.count("LPIPS is left out") == 1 and "alexnet-owt-7be5be79.pth" in said


def test_lpips_with_local_weights_knows_same_from_different(shared, tmp_path, monkeypatch):
    """The real metric, from the reference weights laid out as a torch home."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    name = "alexnet-owt-7be5be79.pth"
    (folder / name).symlink_to(shared / "weights" / name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    lpips = compat.LazyLpips()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert lpips(image, image) == pytest.approx(0.0, abs=1e-6)
    assert (lpips(image, image.roll(7, -1)) or 0.0) > 0.05


@pytest.mark.parametrize(
    ("program", "name", "instead"),
    [
        ("/bin/ns-export", "pointcloud", "ns-export gaussian-splat --load-config 'my run/config.yml' --output-dir out"),
        ("/bin/ns-export", "tsdf", "genfusion-mesh --load-config 'my run/config.yml'"),
        ("/x/exporter.py", "poisson", "genfusion-mesh --load-config"),
        ("/bin/ns-export", "marching-cubes", "genfusion-mesh --load-config"),
        ("/bin/ns-render", "spiral", "genfusion-camera-path --kind spiral --load-config 'my run/config.yml'"),
    ],
)
def test_commands_for_fields_name_the_one_for_splats(program, name, instead):
    with pytest.raises(UserError) as raised:
        compat.check_command([program, name, "--load-config", "my run/config.yml", "--output-dir", "out"])
    assert instead in str(raised.value)


@pytest.mark.parametrize(
    "argv", [["ns-export", "gaussian-splat"], ["ns-export", "cameras"], ["ns-render", "dataset"], ["x", "spiral"], [""]]
)
def test_all_other_commands_go_ahead(argv):
    compat.check_command(argv)


@pytest.mark.parametrize(("options", "host"), [([], "127.0.0.1"), (["--viewer.websocket-host", "0.0.0.0"], "0.0.0.0")])
def test_ns_viewer_listens_on_this_machine_unless_asked(monkeypatch, options, host):
    from nerfstudio.scripts.viewer import run_viewer

    started = []

    def until_interrupted(config, pipeline, step):
        started.append(config.viewer)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_viewer, "_start_viewer", until_interrupted)
    compat.tame_ns_viewer(["ns-viewer", "--load-config", "config.yml", *options])
    viewer = run_viewer.ViewerConfigWithoutNumRays().as_viewer_config()  # what the program makes of its own options
    assert viewer.websocket_host == "0.0.0.0"  # the fault
    run_viewer._start_viewer(SimpleNamespace(viewer=viewer), None, 0)
    assert started[0].websocket_host == host


def test_hook_prints_user_errors_and_passes_on_the_rest(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: seen.append(args[0]))
    compat.report_user_errors_without_traceback()
    compat.report_user_errors_without_traceback()  # installing twice is installing once
    sys.excepthook(KeyError, KeyError("x"), None)
    assert seen == [KeyError]
    with pytest.raises(SystemExit) as stopped:
        sys.excepthook(UserError, UserError("found [1], expected 2"), None)
    assert stopped.value.code == 2
    assert "found [1], expected 2" in capsys.readouterr().out


def test_nerfstudio_finds_its_caller_without_reading_source():
    from nerfstudio.configs import external_methods, method_configs

    assert "genfusion" in method_configs.all_methods and external_methods.inspect.stack is compat._frames
    assert [f.function for f in compat._frames()] == [f.function for f in inspect.stack()]
    methods, _ = external_methods.get_external_methods()  # would ask to install the first one, were its caller unknown
    assert methods
