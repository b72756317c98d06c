"""What diffusers prints while it reads weights, and a user can do nothing about."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Within it neither a bar of the components appears nor the note that `torch_dtype` got another name, which
    diffusers 0.35 does not know yet."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`torch_dtype` is deprecated", category=FutureWarning)
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
