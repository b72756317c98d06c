"""What Nerfstudio 1.1.5 breaks for its users, each mended in one place.

Everything here is a work-around for a named fault of that release and can go when the fault goes. It is imported by
`plugin.config`, hence by every `ns-*` process.
"""

from __future__ import annotations

import contextlib
import importlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape
from torch import Tensor, nn

from genfusion_ns.errors import UserError

LOCAL = "127.0.0.1"
"""Address of the viewer, for this machine only."""
_numpy_scalar = importlib.import_module("numpy.core.multiarray").scalar


def allow_numpy_scalars_in_checkpoints() -> None:
    """Fault: since torch 2.6 `torch.load` refuses the numpy scalars that Nerfstudio's learning-rate schedulers leave
    in checkpoints (nerfstudio issue 3683), so that resume, ns-eval, ns-render, ns-viewer and ns-export all fail.
    Our own checkpoints hold none; this lets old and foreign ones load too, without unpickling anything else."""
    if not hasattr(torch.serialization, "add_safe_globals"):
        return  # torch < 2.4 loads without the restriction
    torch.serialization.add_safe_globals([_numpy_scalar, np.dtype, np.dtypes.Float64DType])


def resize_gaussians_in_place(params: nn.ParameterDict, state: Mapping[str, Tensor], prefix: str) -> None:
    """Fault: SplatfactoModel.load_state_dict replaces its Parameters after the optimisers were built on the old ones,
    so that a resumed run trains nothing (nerfstudio issue 3554). Resizing `.data` keeps the Parameter objects.

    Args:
        params: the model's Gaussians, each [N, ...].
        state: state dict with `prefix + name` for each of them, [M, ...].
        prefix: what stands before the name in the state dict.
    """
    for name, param in params.items():
        saved = state[prefix + name]
        param.data = param.data.new_zeros((saved.shape[0], *param.shape[1:]))
        param.grad = None


class LazyLpips:
    """Fault: torchmetrics downloads LPIPS's backbone as soon as the metric is built, which Nerfstudio does in every
    model's constructor; offline no model can be made. Here it is built when it is first asked for, outside of the
    module tree (so that no checkpoint carries it), and left out of the metrics where its weights cannot be had."""

    def __init__(self) -> None:
        self._metric: nn.Module | None = None
        self._unavailable = False

    def __call__(self, target: Tensor, image: Tensor) -> float | None:
        """LPIPS (AlexNet) of two [1, 3, H, W] images in [0, 1]; None where it cannot be computed."""
        if self._unavailable or min(image.shape[-2:]) < 32:  # AlexNet's pooling needs about 32 pixels
            return None
        if self._metric is None:
            self._metric = self._build(image.device)
            self._unavailable = self._metric is None
        return None if self._metric is None else float(self._metric(target.clamp(0, 1), image.clamp(0, 1)))

    @staticmethod
    def _build(device: torch.device) -> nn.Module | None:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        try:
            return LearnedPerceptualImagePatchSimilarity(normalize=True).to(device)
        except (URLError, OSError) as error:
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            CONSOLE.print(
                f"[yellow]LPIPS is left out:[/] its AlexNet weights could not be had ({escape(str(error))}). To get it "
                f"offline, put torchvision's alexnet-owt-7be5be79.pth into {folder}."
            )
            return None


_INSTEAD = {
    "pointcloud": "ns-export gaussian-splat --load-config {run} --output-dir {out}",
    "tsdf": "genfusion-mesh --load-config {run}",
    "poisson": "genfusion-mesh --load-config {run}",
    "marching-cubes": "genfusion-mesh --load-config {run}",
    "spiral": "genfusion-camera-path --kind spiral --load-config {run}",
}


def check_command(argv: Sequence[str]) -> None:
    """Fault: some subcommands of ns-export and ns-render work for fields only and end in assertions. Raises UserError:
    `argv` (the process's name first) is one of them; the message names the command that works."""
    program = {"exporter.py": "ns-export", "render.py": "ns-render"}.get(Path(argv[0]).name, Path(argv[0]).name)
    name = next((argument for argument in argv[1:] if not argument.startswith("-")), "")
    if program not in ("ns-export", "ns-render") or name not in _INSTEAD:
        return
    given = dict(zip(argv, argv[1:], strict=False))
    run, out = (shlex.quote(given.get(option, "...")) for option in ("--load-config", "--output-dir"))
    instead = _INSTEAD[name].format(run=run, out=out)
    raise UserError(f"{program} {name} works on fields of rays; this run holds splats. Instead: {instead}")


def tame_ns_viewer(argv: Sequence[str]) -> None:
    """Fault: ns-viewer drops the run's own settings of the viewer, listens on all addresses of the machine, and Ctrl+C
    ends it in a traceback. For runs of this method it listens on 127.0.0.1 unless --viewer.websocket-host is given."""
    module: Any = sys.modules.get("nerfstudio.scripts.viewer.run_viewer")
    if module is None:
        return
    start = module._start_viewer
    chosen = any(argument.replace("_", "-").startswith("--viewer.websocket-host") for argument in argv)

    def start_locally(config: Any, *args: Any) -> None:
        if not chosen:
            config.viewer.websocket_host = LOCAL
        with contextlib.suppress(KeyboardInterrupt):
            start(config, *args)

    module._start_viewer = start_locally


def report_user_errors_without_traceback() -> None:
    """Fault: the `ns-*` programs show every exception as a traceback. A `UserError` is a message for the user, so it
    is printed as such and the process exits with status 2; all other exceptions go to the hook that was there."""
    previous = sys.excepthook
    if getattr(previous, "_genfusion", False):
        return

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not issubclass(kind, UserError):
            return previous(kind, error, traceback)
        CONSOLE.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)

    hook._genfusion = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _frames() -> list[SimpleNamespace]:
    """Of `inspect.stack` the names of the functions."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        found.append(SimpleNamespace(function=frame.f_code.co_name))
        frame = frame.f_back
    return found


def start_without_reading_source() -> None:
    """Fault: for each of 26 methods that are not installed Nerfstudio looks the source of its whole call stack up, a
    third of the time that any `ns-*` program takes to start; it needs the name of one function."""
    module: Any = sys.modules.get("nerfstudio.configs.external_methods")
    if module is not None:
        module.inspect = SimpleNamespace(stack=_frames)


def apply() -> None:
    """Install the mends that act on the whole process; called once, by `plugin.config`."""
    allow_numpy_scalars_in_checkpoints()
    report_user_errors_without_traceback()
    start_without_reading_source()
