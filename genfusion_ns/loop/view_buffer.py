"""The memory of generated views: a bounded pool, each frame with where it came from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.errors import UserError
from genfusion_ns.files import LEFTOVERS, write_atomic
from genfusion_ns.geometry import directions, positions
from genfusion_ns.seeding import order_index

_INDEX = "pool.json"
ALIKE_DISTANCE = 0.05
"""Two views are alike if their centres are closer than this, in scene extents, ..."""
ALIKE_COSINE = math.cos(math.radians(5.0))
"""... and their directions than this."""
WORSE = 0.1
"""A new frame whose agreement is lower by more than this does not replace an older one of its view."""
LEAST_WEIGHT = 0.02
"""A frame that weighs less is not worth the step that it would be rendered in."""


@dataclass(frozen=True)
class Provenance:
    """Where a generated frame came from."""

    repairer: str
    """Name of the repairer."""
    fingerprint: str
    """Which weights it used; empty without weights."""
    trajectory: str
    """Kind of camera path."""
    seed: int
    """Seed of the run."""
    round: int
    """Round that made it, from 0."""
    step: int
    """Finished training steps at that time."""
    clip: int
    """Clip within the round, from 0."""
    frame: int
    """Frame within the clip, from 0."""


@dataclass(frozen=True)
class GeneratedFrame:
    """One generated view, stored small; `image`, `disparity_map` and `confidence_map` give floats."""

    camera: Camera
    """The view, on the CPU."""
    rgb: Tensor
    """[H, W, 3] uint8."""
    disparity: Tensor
    """[H, W, 1] float16 in [0, 1], up to scale and shift; 0 = unknown."""
    confidence: Tensor
    """[H, W, 1] uint8, 255 = believed."""
    weight: float
    """>= 0, factor of this frame's loss."""
    provenance: Provenance
    """Where it came from."""
    agreement: float = 1.0
    """In [0, 1], how well it agrees with the captured views."""
    id: int = -1
    """Number within the pool, never used twice; -1 before it is admitted."""

    @classmethod
    def encode(
        cls,
        camera: Camera,
        rgb: Tensor,
        disparity: Tensor,
        confidence: Tensor,
        provenance: Provenance,
        weight: float = 1.0,
        agreement: float = 1.0,
    ) -> GeneratedFrame:
        """From floats: rgb [H, W, 3] and confidence [H, W, 1] in [0, 1], disparity [H, W, 1] >= 0.

        Disparity is divided by its maximum, which a scale-free map may be. Pixels that are not finite get confidence
        0 (colour) or disparity 0.
        """
        believed = confidence.nan_to_num(0.0, 0.0, 0.0) * rgb.isfinite().all(dim=-1, keepdim=True)
        disparity = disparity.float().nan_to_num(0.0, 0.0, 0.0).clamp_min(0.0)
        disparity = disparity / disparity.max().clamp_min(1e-12)
        return cls(
            camera=camera.to("cpu"),
            rgb=_to_uint8(rgb.nan_to_num(0.0, 0.0, 0.0)),
            disparity=disparity.to("cpu", torch.float16),
            confidence=_to_uint8(believed),
            weight=float(weight),
            provenance=provenance,
            agreement=float(agreement),
        )

    def image(self, device: torch.device | str = "cpu") -> Tensor:
        """[H, W, 3] float32 in [0, 1]."""
        return self.rgb.to(device).float() / 255.0

    def disparity_map(self, device: torch.device | str = "cpu") -> Tensor:
        """[H, W, 1] float32 in [0, 1], up to scale and shift; 0 = unknown."""
        return self.disparity.to(device).float()

    def confidence_map(self, device: torch.device | str = "cpu") -> Tensor:
        """[H, W, 1] float32 in [0, 1]."""
        return self.confidence.to(device).float() / 255.0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain scalars."""
        return {**self.tensors(), **self.record()}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of `state_dict`."""
        maps = {"rgb": self.rgb, "disparity": self.disparity, "confidence": self.confidence}
        return {name: t.contiguous() for name, t in {"w2c": self.camera.w2c, "K": self.camera.K, **maps}.items()}

    def record(self) -> dict[str, Any]:
        """The plain scalars of `state_dict`."""
        return {
            "id": self.id,
            "width": self.camera.width,
            "height": self.camera.height,
            "weight": self.weight,
            "agreement": self.agreement,
            "provenance": asdict(self.provenance),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> GeneratedFrame:
        """Inverse of `state_dict`."""
        return cls(
            camera=Camera(state["w2c"], state["K"], state["width"], state["height"]),
            rgb=state["rgb"],
            disparity=state["disparity"],
            confidence=state["confidence"],
            weight=state["weight"],
            agreement=state["agreement"],
            provenance=Provenance(**state["provenance"]),
            id=state["id"],
        )


def _to_uint8(values: Tensor) -> Tensor:
    return (values.clamp(0, 1) * 255.0).round().to("cpu", torch.uint8)


class Admission(NamedTuple):
    """What became of a round's frames."""

    entered: int
    """New frames now in the pool (before the capacity was looked at)."""
    refused: int
    """New frames that weighed next to nothing, or agreed less with the captured views than an older one of almost the
    same view."""
    replaced: int
    """Older frames that made room for such a new one."""
    evicted: int
    """Frames that had to leave a full pool."""


def most_alike(camera: Camera, frames: Sequence[GeneratedFrame], unit: float) -> GeneratedFrame | None:
    """The frame that shows almost the same view, within ALIKE_DISTANCE and ALIKE_COSINE; None if there is none."""
    if not frames:
        return None
    cameras = [frame.camera for frame in frames]
    distance = (positions(cameras) - camera.position.to("cpu")).norm(dim=-1) / unit
    cosine = directions(cameras) @ camera.w2c[2, :3].to("cpu")
    alike = (distance < ALIKE_DISTANCE) & (cosine > ALIKE_COSINE)
    if not bool(alike.any()):
        return None
    return frames[int(torch.where(alike, distance + (1.0 - cosine), torch.inf).argmin())]


@dataclass
class GeneratedViews:
    """A bounded pool of generated frames."""

    capacity: int
    """Most frames kept; beyond it the lightest, and among equals the oldest, leave."""
    frames: list[GeneratedFrame] = field(default_factory=list)
    """By age, the oldest first."""
    next_id: int = 0
    """Number of the next frame."""

    def __len__(self) -> int:
        return len(self.frames)

    def admit(self, frames: Iterable[GeneratedFrame], unit: float = 1.0) -> Admission:
        """Take the frames of one round in.

        Where an older frame shows almost the same view, the new one takes its place: it came from better splats, unless
        it agrees less with the captured views. Frames that weigh less than LEAST_WEIGHT are not taken.

        Args:
            unit: the scene's extent, by which "almost the same" is measured.
        """
        older = list(self.frames)
        entering, replaced, refused = [], set(), 0
        for frame in frames:
            rival = most_alike(frame.camera, [f for f in older if f.id not in replaced], unit)
            if frame.weight < LEAST_WEIGHT or (rival is not None and rival.agreement > frame.agreement + WORSE):
                refused += 1
                continue
            if rival is not None:
                replaced.add(rival.id)
            entering.append(replace(frame, id=self.next_id))
            self.next_id += 1
        self.frames = [f for f in older if f.id not in replaced] + entering
        surplus = max(0, len(self.frames) - self.capacity)
        leaving = {frame.id for frame in sorted(self.frames, key=lambda frame: (frame.weight, frame.id))[:surplus]}
        self.frames = [frame for frame in self.frames if frame.id not in leaving]
        return Admission(len(entering), refused, len(replaced), surplus)

    def of_round(self, round: int) -> list[Camera]:
        """The views of a round's frames that are still here."""
        return [frame.camera for frame in self.frames if frame.provenance.round == round]

    def reweigh(self, round: int, factor: float) -> int:
        """Multiply the weights of a round's frames; those whose weight becomes 0 leave. Returns how many left."""
        before = len(self.frames)
        weighed = [replace(f, weight=f.weight * factor) if f.provenance.round == round else f for f in self.frames]
        self.frames = [frame for frame in weighed if frame.weight > 0 or frame.provenance.round != round]
        return before - len(self.frames)

    def pick(self, seed: int, step: int) -> GeneratedFrame:
        """The frame that serves a training step: a function of (seed, step) and of what is in the pool.

        Raises:
            ValueError: the pool is empty.
        """
        return self.frames[order_index(len(self.frames), seed, step, "generated views")]

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and plain scalars that torch.load(weights_only=True) accepts."""
        return {
            "capacity": self.capacity,
            "next_id": self.next_id,
            "frames": [frame.state_dict() for frame in self.frames],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.capacity, self.next_id = state["capacity"], state["next_id"]
        self.frames = [GeneratedFrame.from_state_dict(frame) for frame in state["frames"]]

    def save(self, folder: Path) -> None:
        """Write the pool to a folder of its own: one safetensors file per frame, and an index written last.

        A kill at any moment leaves a folder that loads as it was before or after. Files are named by content, so
        frames already there are not written again, and a run resumed from an earlier step never mixes two versions.
        """
        folder.mkdir(parents=True, exist_ok=True)
        records = []
        for frame in self.frames:
            data = save(frame.tensors(), metadata={"provenance": json.dumps(asdict(frame.provenance))})
            name = f"frame_{frame.id:06d}_{hashlib.blake2b(data, digest_size=6).hexdigest()}.safetensors"
            if not (folder / name).exists():
                write_atomic(folder / name, data)
            records.append({"file": name, **frame.record()})
        index = {"capacity": self.capacity, "next_id": self.next_id, "frames": records}
        write_atomic(folder / _INDEX, json.dumps(index, indent=1).encode())
        kept = {record["file"] for record in records}
        for path in [*folder.glob("frame_*.safetensors"), *folder.glob(LEFTOVERS)]:  # of before, or of a kill
            if path.name not in kept:
                path.unlink()

    @classmethod
    def load(cls, folder: Path) -> GeneratedViews:
        """Inverse of `save`.

        Raises:
            UserError: no index, or a frame that it names is missing or damaged.
        """
        try:
            index = json.loads((folder / _INDEX).read_bytes())
            frames = []
            for record in index["frames"]:
                tensors = load_file(folder / Path(record["file"]).name)
                frames.append(GeneratedFrame.from_state_dict({**tensors, **record}))
            return cls(index["capacity"], frames, index["next_id"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} holds no readable pool of generated views ({error}); expected {_INDEX} and the frames that "
                "it names. Restore the folder, or delete it and resume: the next round fills it again."
            ) from error
