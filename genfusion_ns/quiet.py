"""Warnings of other packages that a user of this one can do nothing about."""

from __future__ import annotations

import warnings

_NOISE: tuple[tuple[str, type[Warning]], ...] = (
    # Nerfstudio 1.1.5 on torch >= 2.4: in its activations at import, and in its trainer.
    (r"`torch\.cuda\.amp\.(custom_fwd|custom_bwd|GradScaler)\(", FutureWarning),
    # torch, where Nerfstudio's trainer moves the learning rates on after a step that the optimisers left out.
    (r"Detected call of `lr_scheduler\.step\(\)` before `optimizer\.step\(\)`", UserWarning),
    # numba beside an old TBB, of a threading layer that is not used here.
    (r"The TBB threading layer requires TBB", Warning),
    # viser, of pictures in the panel, which hold their data themselves.
    (r"No `image_root` provided", UserWarning),
)


def third_parties() -> None:
    """Silence them in this process, each by its text."""
    for message, category in _NOISE:
        warnings.filterwarnings("ignore", message=message, category=category)
