"""The viewer's panel of the rounds: how they stand, what the last one changed, and what the user may ask of them.

The viewer finds `RoundsPanel` as an attribute of the pipeline and shows its elements, in the order of their names. Its
callbacks run in the viewer's thread and only leave notes; the training thread reads them after its next step.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import viser.transforms as vtf
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerCheckbox, ViewerControl, ViewerElement, ViewerSlider
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from viser import ClientHandle, ViserServer

from genfusion_ns.cameras import Camera
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.state import LoopState
from genfusion_ns.plugin.bridge import opening_view
from genfusion_ns.plugin.round_log import encoded, last_sheet
from genfusion_ns.plugin.wishes import ViewerWishes
from genfusion_ns.schedule import round_steps

PANEL_WIDTH = 640
"""Width of the last clip's picture in the panel, in pixels; the panel is some 300 wide."""
LEGEND = "**trust**: blue = observed, yellow = repaired, red = invented"
SHOWS = "rows: before, after, confidence"


class ViewerMarkdown(ViewerElement[str]):
    """Formatted text, or a picture, which Nerfstudio's elements lack."""

    def __init__(self, content: str) -> None:
        super().__init__(name="")
        self.content = content

    def show(self, content: str) -> None:
        self.content = content
        if self.gui_handle is not None:
            self.gui_handle.content = content  # type: ignore[attr-defined]

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        self.gui_handle = viser_server.gui.add_markdown(self.content)  # type: ignore[assignment]

    def install(self, viser_server: ViserServer) -> None:
        self._create_gui_handle(viser_server)


class RoundsPanel(torch.nn.Module):
    """A module without parameters, since the viewer looks into modules only; alive without a viewer too. Without
    `training` there will be no rounds, and their controls are hidden."""

    def __init__(self, training: bool) -> None:
        super().__init__()
        self._training = training
        self._asked = False
        self._state_text = "no round yet"
        self.control = _Door(self)
        self.hide_invented = ViewerSlider(
            "Hide invented Gaussians",
            0.0,
            0.0,
            1.0,
            0.5,
            cb_hook=lambda element: self._hide(element.value),
            hint="Least trust that is shown: 0 = all, 0.5 = no invented, 1 = observed only. Training sees all.",
        )
        self.last_clip = ViewerMarkdown("")
        self.legend = ViewerMarkdown(LEGEND)
        self.pause_rounds = ViewerCheckbox(
            "Pause rounds", False, visible=training, hint="Scheduled rounds are skipped while this is set."
        )
        self.run_round = ViewerButton("Run a round now", cb_hook=lambda _: self.ask(), visible=training)
        self.status = ViewerMarkdown(self._state_text)

    # -- between viewer and model --------------------------------------------------------------------------------

    def connect(self, wishes: ViewerWishes, cameras: Sequence[Camera]) -> None:
        """Tell which model the slider is for, and from which captured cameras (CPU) the viewer opens."""
        self.control.wishes, self.control.cameras = wishes, cameras

    def _hide(self, least_trust: float) -> None:
        if self.control.wishes is not None:
            self.control.wishes.least_trust = float(least_trust)

    # -- between viewer and loop ---------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask for a round after the training step that is under way."""
        self._asked = True
        self._write("a round comes after this training step")

    def wants_round(self, loop: LoopConfig, k: int, run_length: int) -> bool:
        """Whether a round follows step k: one is scheduled and not paused, or the user asked and it is not too late.

        The user's wish is then forgotten, fulfilled or not."""
        asked, self._asked = self._asked, False
        scheduled, paused = loop.is_round_due(k, run_length), bool(self.pause_rounds.value)
        why_not = refusal(loop, k, run_length)
        if asked and why_not:
            self._write(f"no round: {why_not}")
        elif asked:
            return True
        elif scheduled and paused:
            self._write(f"paused: the round at step {k} was skipped")
        return scheduled and not paused

    def update(self, state: LoopState, loop: LoopConfig, k: int, run_length: int) -> None:
        """Show how the loop stands after step k."""
        self._state_text = status_text(state, round_steps_after(k, loop, run_length) if self._training else None)
        self._write("")

    def close(self) -> None:
        """No more rounds: training has ended."""
        self._training = False
        for element in (self.run_round, self.pause_rounds):
            if element.gui_handle is not None:
                element.set_disabled(True)

    def show_clip(self, sheet: Tensor | None) -> None:
        """Show what the last round changed: [H, W, 3] in [0, 1], or None = nothing."""
        if sheet is None:
            self.last_clip.show("")
            return
        data = base64.b64encode(encoded(sheet, "JPEG", PANEL_WIDTH)).decode()
        self.last_clip.show(f"![{SHOWS}](data:image/jpeg;base64,{data})\n\n{SHOWS}")

    def _write(self, note: str) -> None:
        self.status.show(self._state_text + (f"  \n*{note}*" if note else ""))


class _Door(ViewerControl):
    """Where the viewer introduces itself, once, before it opens."""

    def __init__(self, panel: RoundsPanel) -> None:
        self._panel = panel
        self.wishes: ViewerWishes | None = None
        self.cameras: Sequence[Camera] = ()
        self._frustum = 0.0

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        if self.wishes is not None:
            self.wishes.shown = lambda: shown_outputs(viewer)
        self._frustum = viewer.config.camera_frustum_scale / VISER_NERFSTUDIO_SCALE_RATIO
        viewer.viser_server.on_client_connect(self._open)
        CONSOLE.print(how_to_open(viewer.viser_server.get_host(), viewer.viser_server.get_port()), soft_wrap=True)
        self._load_clip(viewer.log_filename.parent)

    def _open(self, client: ClientHandle) -> None:
        """Nerfstudio's viewer looks at the world's origin, where the cameras are: look at the scene instead, with no
        photo before it."""
        if not self.cameras:
            return
        camera, target = opening_view(self.cameras, self._frustum)
        c2w = camera.c2w.double().numpy()
        with client.atomic():
            client.camera.position = c2w[:3, 3] * VISER_NERFSTUDIO_SCALE_RATIO
            client.camera.wxyz = vtf.SO3.from_matrix(c2w[:3, :3]).wxyz
            client.camera.look_at = target.double().numpy() * VISER_NERFSTUDIO_SCALE_RATIO
            client.camera.fov = 2.0 * math.atan(camera.height / (2.0 * float(camera.K[1, 1])))

    def _load_clip(self, run_folder: Path) -> None:
        path = last_sheet(run_folder)
        if path is None:
            return
        try:
            with Image.open(path) as image:
                sheet = torch.from_numpy(np.array(image.convert("RGB"))) / 255.0
        except (OSError, UnidentifiedImageError) as error:
            CONSOLE.print(f"[yellow]The last round's picture is not shown:[/] {path} cannot be read ({error}).")
            return
        self._panel.show_clip(sheet)


def how_to_open(host: str, port: int) -> str:
    """Where the viewer is, and how to reach it from elsewhere."""
    if host not in ("127.0.0.1", "localhost"):
        return f"[bold]viewer:[/] http://localhost:{port}, and from every machine that reaches this one (host {host})"
    return (
        f"[bold]viewer:[/] http://localhost:{port}, for this machine only; from another one first: "
        f"ssh -L {port}:localhost:{port} THIS_MACHINE (or start with --viewer.websocket-host 0.0.0.0)"
    )


def shown_outputs(viewer: Any) -> set[str]:
    """Names of the outputs on the viewer's screen: one, or two while it is split."""
    control = viewer.control_panel
    return {control.output_render} | ({control.split_output_render} if control.split else set())


def refusal(loop: LoopConfig, k: int, run_length: int) -> str:
    """Why no round may be asked for after step k; empty if one may."""
    if loop.every < 1:
        return "the loop is switched off (loop.every is 0)"
    end = min(loop.until, run_length)
    return f"generated views taught until step {end} only" if k >= end else ""


def round_steps_after(k: int, loop: LoopConfig, run_length: int) -> list[int]:
    """The steps of the scheduled rounds that come after step k."""
    return [step for step in round_steps(loop.start, loop.every, loop.until, run_length) if step > k]


def status_text(state: LoopState, coming: Sequence[int] | None) -> str:
    """How the loop stands, in Markdown: rounds done, the next one's step of those that are `coming` (None = nothing is
    trained), pool, the last outcome."""
    following = "" if coming is None else f", next {f'at step {coming[0]}' if coming else 'none'}"
    lines = [f"**rounds**: {len(state.reports)} done{following}", f"**pool**: {len(state.pool)} generated views"]
    if state.reports:
        last = state.reports[-1]
        verdict = "not judged yet" if last.outcome == "open" else last.outcome
        lines.append(
            f"**last**: round {last.round + 1} at step {last.step}, {verdict}; {last.admitted} views admitted, "
            f"coverage {last.coverage:.2f}, agreement {last.agreement:.2f}"
        )
    return "  \n".join(lines)
