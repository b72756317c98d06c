"""Nerfstudio's trainer with resume to the run's end, atomic checkpoints, and steps that survive a NaN."""

from __future__ import annotations

import functools
import signal
import sys
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer, TrainerConfig
from nerfstudio.utils import profiler, writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.utils.writer import EventName

from genfusion_ns.bounds import COUNT, NATURAL, POSITIVE, Bound, Bounds, check_bounds
from genfusion_ns.errors import UserError
from genfusion_ns.files import replacing
from genfusion_ns.interrupts import INTERRUPTS, Interrupted
from genfusion_ns.plugin.first_splats import depth_folder
from genfusion_ns.plugin.next_steps import commands_after_training, print_commands, resume_command
from genfusion_ns.plugin.optimizers import GaussianAdamConfig, LogLinearSchedulerConfig
from genfusion_ns.plugin.pipeline import GenFusionPipeline, GenFusionPipelineConfig
from genfusion_ns.plugin.resume import checkpoints, chosen_checkpoint, fitting_errors, read_checkpoint
from genfusion_ns.plugin.runs import remove_unused_run
from genfusion_ns.schedule import rate_factor


@dataclass
class GenFusionTrainerConfig(TrainerConfig):
    """Nerfstudio's trainer settings, and what to do about steps whose loss is not finite."""

    _target: type = field(default_factory=lambda: GenFusionTrainer)
    """The trainer class."""
    pipeline: GenFusionPipelineConfig = field(default_factory=GenFusionPipelineConfig)
    """Views, splats and the loop."""
    max_bad_steps: int = 20
    """Steps in a row with a NaN or infinite loss or gradient that are skipped before the run stops; the last good
    checkpoint stays."""

    BOUNDS: ClassVar[Bounds] = {
        **dict.fromkeys(("max_bad_steps", "max_num_iterations", "logging.max_buffer_size"), COUNT),
        **dict.fromkeys(("machine.num_devices", "machine.num_machines", "viewer.num_rays_per_chunk"), COUNT),
        **dict.fromkeys(("steps_per_save", "steps_per_eval_batch", "steps_per_eval_image"), NATURAL),
        **dict.fromkeys(("steps_per_eval_all_images", "load_step", "machine.machine_rank"), NATURAL),
        **dict.fromkeys(("logging.steps_per_log", "logging.local_writer.max_log_size"), NATURAL),
        **dict.fromkeys(("viewer.websocket_port", "viewer.websocket_port_default"), Bound(0, 65535)),
        "machine.seed": Bound(0, 2**32 - 1),
        "viewer.max_num_display_images": Bound(-1),
        "viewer.jpeg_quality": Bound(1, 100),
        "viewer.camera_frustum_scale": POSITIVE,
    }

    def save_config(self) -> None:
        """Write config.yml with absolute paths, so that ns-eval and its kin work from any folder. Raises UserError:
        settings that can't work; nothing is written then, and ns-train comes here first."""
        check_bounds(self)
        self.pipeline.datamanager.loop.check()
        self.output_dir = self.output_dir.absolute()
        if self.pipeline.datamanager.data is not None:
            self.pipeline.datamanager.data = self.pipeline.datamanager.data.absolute()
        super().save_config()


class GenFusionTrainer(Trainer):
    """See `GenFusionTrainerConfig`."""

    config: GenFusionTrainerConfig
    pipeline: GenFusionPipeline  # type: ignore[assignment]

    def setup(self, test_mode: str = "val") -> None:
        """Nerfstudio's set-up, then one line about the renderer and the time to expect."""
        ready = False
        try:
            with INTERRUPTS.deferred(), INTERRUPTS.at_once():
                self._check_device()
                # before photos are read and splats are made
                found = chosen_checkpoint(self.config.load_dir, self.config.load_step, self.config.load_checkpoint)
                views, total = self.config.pipeline.datamanager, self.config.max_num_iterations
                if views.depth_folder is None:
                    views.depth_folder = depth_folder(self.base_dir, found)
                views.loop.scaled_to(total, views.reference_iterations).check_files(total)
                super().setup(test_mode=test_mode)  # type: ignore[arg-type]
                ready = True
                self._bad_steps = 0
                self.callbacks.append(
                    TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], lambda step: INTERRUPTS.check())
                )
                self.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self._print_result))
                if self._start_step < total:
                    self.pipeline.announce(self._start_step)
        except Interrupted:
            CONSOLE.print("[yellow]stopped before the first step:[/] nothing was trained. Start again at any time.")
            raise
        finally:
            if not ready:
                remove_unused_run(self.base_dir)

    def _check_device(self) -> None:
        """Refuse to run the full-size preset on a CPU by accident."""
        if self.config.machine.device_type == "cuda" and not torch.cuda.is_available():
            raise UserError(
                f"{self.config.method_name} is to run on CUDA, and torch {torch.__version__} sees no GPU. Take "
                "genfusion-cpu, or this preset at its full size with --machine.device-type cpu (hours). To use a GPU, "
                "run scripts/setup again, or install the torch that `nvidia-smi | python -m genfusion_ns.gpu` names."
            )

    def setup_optimizers(self) -> Optimizers:
        """Nerfstudio's optimisers; rates and decays without a factor or a length of their own get the run's."""
        factor = rate_factor(self.config.max_num_iterations, self.config.pipeline.model.reference_iterations)
        for group in self.config.optimizers.values():
            optimizer, scheduler = group["optimizer"], group["scheduler"]
            if isinstance(optimizer, GaussianAdamConfig) and optimizer.run_factor is None:
                optimizer.run_factor = factor
            if isinstance(scheduler, LogLinearSchedulerConfig) and scheduler.max_steps is None:
                scheduler.max_steps = self.config.max_num_iterations
        self.pipeline.model.set_run_length(self.config.max_num_iterations)
        self.pipeline.datamanager.set_run_length(self.config.max_num_iterations)
        return super().setup_optimizers()

    def _load_checkpoint(self) -> None:
        """Go on from a checkpoint, if one is asked for; every way in which that fails is a `UserError`."""
        path = chosen_checkpoint(self.config.load_dir, self.config.load_step, self.config.load_checkpoint)
        if path is None:
            return
        state = read_checkpoint(path)
        with fitting_errors(path):
            self._start_step = state["step"] + 1
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
            self.optimizers.load_optimizers(state["optimizers"])
            if "schedulers" in state and self.config.load_scheduler:
                self.optimizers.load_schedulers(state["schedulers"])
            self.grad_scaler.load_state_dict(state["scalers"])
        CONSOLE.print(f"[bold]genfusion:[/] goes on from {path}, step {state['step']}.", soft_wrap=True)

    def train(self) -> None:
        """Train up to step `max_num_iterations`, also after --load-dir (stock 1.1.5 would run that many more). Raises
        Interrupted: SIGINT or SIGTERM came; the steps that are done are in a checkpoint."""
        total = self.config.max_num_iterations
        if self._start_step >= total:
            CONSOLE.print(
                f"[yellow]Nothing to train:[/] the checkpoint is at step {self._start_step - 1} and "
                f"--max-num-iterations is {total}. Raise it to train on."
            )
            return
        self.config.max_num_iterations = total - self._start_step
        self._last_step = self._start_step - 1
        with INTERRUPTS.deferred(wake=self._unpause):
            try:
                super().train()
            except Interrupted:
                if self.training_state != "completed":
                    self._save_unfinished(total)
                raise
            finally:
                self.config.max_num_iterations = total

    def _unpause(self) -> None:
        """Let a paused run make the one step after which it stops."""
        if self.training_state == "paused":
            self.training_state = "training"

    def _save_unfinished(self, total: int) -> None:
        self.save_checkpoint(self._last_step)
        CONSOLE.print(f"\n[yellow]stopped[/] after {self._last_step + 1:,} of {total:,} steps, all saved. To go on:")
        print_commands([resume_command(sys.argv, self.config, self.checkpoint_dir)])

    def _print_result(self, step: int) -> None:
        """At the end of a run: how good it is, where it is, what to do with it."""
        with INTERRUPTS.at_once():
            found = self.pipeline.held_out_quality()
        if found is not None:
            psnr, ssim, photos = found
            CONSOLE.print(f"[bold]held-out photos ({photos}):[/] PSNR {psnr:.2f} dB, SSIM {ssim:.3f}")
        shares = ", ".join(f"{100 * share:.0f} % {name}" for name, share in self.pipeline.model.origins().items())
        CONSOLE.print(f"[bold]the splat:[/] {self.pipeline.model.num_points:,} Gaussians ({shares}), in", end=" ")
        CONSOLE.print(self.checkpoint_dir / f"step-{step:09d}.ckpt", highlight=False, soft_wrap=True)
        CONSOLE.print("[bold]next:[/]")
        print_commands(commands_after_training(self.base_dir / "config.yml"))

    def _train_complete_viewer(self) -> None:
        """The viewer goes on after the end of training, until Ctrl+C, which is no failure then."""
        try:
            with INTERRUPTS.at_once():
                super()._train_complete_viewer()
        except Interrupted as stop:
            if stop.code != 128 + signal.SIGINT:
                raise

    def _update_viewer_state(self, step: int) -> None:
        """Between a step's timing and its writing: rounds, which are part of a step, count apart from the others."""
        rounds = self.pipeline.datamanager.rounds
        timed = writer.GLOBAL_BUFFER["events"].get(EventName.ITER_TRAIN_TIME.value)
        if timed is None:  # the first process of several keeps them
            return
        timed["buffer"][-1] = rounds.clock.add_step(timed["buffer"][-1])
        left = rounds.remaining(step + 1)
        for event in writer.EVENT_STORAGE:
            if event["name"] == EventName.ETA.value:
                event["event"] = left
        super()._update_viewer_state(step)

    @profiler.time_function
    def train_iteration(self, step: int) -> TRAIN_INTERATION_OUTPUT:
        """One optimiser step; skipped, and counted, if the loss or a gradient is not finite."""
        for optimizer in self.optimizers.optimizers.values():
            optimizer.zero_grad()
        _, loss_dict, metrics_dict = self.pipeline.get_train_loss_dict(step=step)
        loss = functools.reduce(torch.add, loss_dict.values())
        loss.backward()
        if self._is_finite(loss):
            self._bad_steps = 0
            self.optimizers.optimizer_scaler_step_some(self.grad_scaler, list(self.optimizers.parameters))
        else:
            self._skip_bad_step(step)
        self.optimizers.scheduler_step_all(step)
        self._last_step = step
        return loss.detach(), {name: value.detach() for name, value in loss_dict.items()}, metrics_dict

    def _is_finite(self, loss: torch.Tensor) -> bool:
        # From the optimisers themselves: densification replaces Parameters, and Nerfstudio's own list goes stale.
        groups = [group for optimizer in self.optimizers.optimizers.values() for group in optimizer.param_groups]
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        # A sum is finite only if all its terms are, and is the cheapest pass over them.
        total = sum((g.sum() for g in gradients), start=loss.detach())
        return bool(torch.isfinite(cast(torch.Tensor, total)))

    def _skip_bad_step(self, step: int) -> None:
        self._bad_steps += 1
        self.pipeline.model.discard_observations()
        CONSOLE.print(
            f"[yellow]step {step} skipped:[/] its loss or gradient is NaN or infinite ({self._bad_steps} in a row)"
        )
        if self._bad_steps >= self.config.max_bad_steps:
            raise UserError(
                f"{self._bad_steps} steps in a row had a NaN or infinite loss; the run stops at step {step}. The last "
                f"good checkpoint is in {self.checkpoint_dir}. Lower the learning rates or check the photos and poses."
            )

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write `step-*.ckpt` atomically: a killed run leaves the old checkpoint or the new one, never half of one.
        Raises UserError: it can't be written; the older one stays."""
        self.pipeline.count_observers()
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        # Not in the same folder: Nerfstudio reads every file name there as a step number.
        for left in [*self.base_dir.glob(".step-*.tmp.ckpt"), *self.base_dir.glob(".step-*.ckpt.*")]:
            left.unlink(missing_ok=True)  # by a run that was killed while it wrote
        state = {
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.optimizers.items()},
            "schedulers": {name: s.state_dict() for name, s in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
        }
        try:
            self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
            with replacing(path, folder=self.base_dir) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError) as error:  # torch raises the latter where a write fails
            older = max(checkpoints(self.checkpoint_dir).values(), default=None)
            raise UserError(
                f"the checkpoint of step {step} could not be written to {path} ({str(error).splitlines()[0]}); "
                + (f"{older} stays. " if older else "")
                + "Make room on the disk, then go on"
                + (f" with --load-dir {self.checkpoint_dir}." if older else " by training anew.")
            ) from error
        if self.config.save_only_latest_checkpoint:
            for old in self.checkpoint_dir.glob("*.ckpt"):
                if old != path:
                    old.unlink()
