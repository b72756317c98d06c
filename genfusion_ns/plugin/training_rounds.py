"""The loop's place in a training run: when rounds are due, and what they print, log and keep on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.utils.rich_utils import CONSOLE

from genfusion_ns.files import write_errors
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.contact_sheet import MostChanged
from genfusion_ns.loop.round import CapturedViews, Loop
from genfusion_ns.loop.round_table import round_line, round_table
from genfusion_ns.plugin.clock import Clock, duration
from genfusion_ns.plugin.model import GenFusionModel
from genfusion_ns.plugin.panel import RoundsPanel, round_steps_after
from genfusion_ns.plugin.round_log import log_round

GENERATED_FOLDER = "generated"
DISK_ADVICE = "Make room, and go on from the last checkpoint with --load-dir."


class TrainingRounds:
    """Rounds of `loop` at the steps of a run.

    Args:
        panel: shows them in the viewer, where more can be asked for.
        captured: the photos that train beside generated views, and those that judge these, as a model shows them.
    """

    def __init__(
        self, loop: Loop, panel: RoundsPanel, captured: Callable[[GenFusionModel], tuple[CapturedViews, CapturedViews]]
    ) -> None:
        self.loop, self.panel, self._captured = loop, panel, captured
        self.clock = Clock()
        self.run_length = 0

    def set_run(self, config: LoopConfig, run_length: int) -> None:
        """Follow a configuration for runs of `run_length` steps."""
        self.loop.config, self.run_length = config, run_length
        self._show(0)

    def _show(self, k: int) -> None:
        self.panel.update(self.loop.state, self.loop.config, k, self.run_length)

    def callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """What the trainer calls around its steps."""
        trainer, pipeline = attributes.trainer, attributes.pipeline
        assert trainer is not None and pipeline is not None
        before_step = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION
        after_step, after_all = TrainingCallbackLocation.AFTER_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN
        folder = trainer.base_dir / GENERATED_FOLDER
        if self.loop.state.pool or folder.is_dir():
            # resumed: what the folder holds may be older, or newer, than the checkpoint
            self.loop.state.pool.save(folder)
        return [
            TrainingCallback([before_step], self.make_up, args=[pipeline.model, folder]),
            TrainingCallback([after_step], self.run_if_due, args=[pipeline.model, folder]),
            TrainingCallback([after_step], self.end_if_due, args=[pipeline.model, folder]),
            TrainingCallback([after_all], self.print_table),
        ]

    def run_if_due(self, model: GenFusionModel, folder: Path, step: int) -> None:
        """Run a round after step `step` (0-based) where one is asked for, or is scheduled for the step after: growth
        follows every hundredth step, as rounds do, and costs what splats show 5 dB until they have settled again."""
        k = 1 if step == 0 and self.loop.config.is_round_due(1, self.run_length) else step + 2
        if self.panel.wants_round(self.loop.config, k, self.run_length):
            self.run(model, folder, step)

    def make_up(self, model: GenFusionModel, folder: Path, step: int) -> None:
        """Before the first step of a resumed run: the round that a signal cut off after the step before."""
        if self.loop.state.unfinished:
            model.step = step - 1
            self.run(model, folder, step - 1)
            model.step = step

    def run(self, model: GenFusionModel, folder: Path, step: int) -> None:
        """After step `step`: render novel views, have them repaired, admit them, keep them on disk too."""
        k = step + 2 if self.loop.config.is_round_due(step + 2, self.run_length) else step + 1
        self.loop.state.unfinished = True
        training, judging = self._captured(model)
        watch = MostChanged()
        try:
            report = self.loop.round(k, model.render, training, judging, model.trained_splats(), CONSOLE, watch)
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            CONSOLE.print(
                f"[yellow]genfusion: the round at step {k} is left out,[/] since the GPU's memory does not hold it "
                f"({str(error).splitlines()[0]}). Training goes on. What helps: a smaller "
                "--pipeline.datamanager.loop.max-side or loop.clip-length, or less loop.diffusion.memory than is free.",
                soft_wrap=True,
            )
            self.loop.state.unfinished = False
            return
        self.loop.state.unfinished = False
        with write_errors(folder.parent, DISK_ADVICE):
            self.loop.state.pool.save(folder)
            log_round(report, watch.sheet(), step, folder.parent)
        self._show(k)
        self.panel.show_clip(watch.sheet())
        self.clock.add_round(report.seconds)
        left = self.remaining(k)
        CONSOLE.print(
            f"[bold]genfusion:[/] {round_line(report, self.loop.repairer.name)}; about {duration(left)} to go.",
            soft_wrap=True,
        )

    def remaining(self, k: int) -> float:
        """Seconds that the run takes after step k."""
        return self.clock.remaining(self.run_length - k, self.rounds_after(k))

    def rounds_after(self, k: int) -> int:
        """How many scheduled rounds come after step k."""
        return len(round_steps_after(k, self.loop.config, self.run_length))

    def renders_after(self, k: int) -> int:
        """How many views the steps after step k render: a captured one each, and a generated one while it counts."""
        return sum(1 + (self.loop.config.generated_weight(step) > 0) for step in range(k, self.run_length))

    def end_if_due(self, model: GenFusionModel, folder: Path, step: int) -> None:
        """When generated views have taught for the last time, the last round is judged too."""
        if step + 1 == self.loop.config.until and self.loop.state.reports:
            training, judging = self._captured(model)
            self.loop.settle(model.render, training, judging, model.trained_splats())
            with write_errors(folder.parent, DISK_ADVICE):
                self.loop.state.pool.save(folder)
            self._show(step + 1)

    def print_table(self, step: int) -> None:
        """At the end of a run: what each round did."""
        self.panel.close()
        if self.loop.state.reports:
            CONSOLE.print(round_table(self.loop.state.reports))

    def resume(self) -> None:
        """Show what the loop's state, from a checkpoint, holds."""
        self._show(self.loop.state.reports[-1].step if self.loop.state.reports else 0)
