"""pycolmap, imported where it is first used.

Its import installs a handler of SIGTERM that prints C++ frames over any Python handler; the handler that was there is
put back.
"""

from __future__ import annotations

import functools
import importlib
import signal
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pycolmap as pycolmap
else:

    @functools.cache
    def _imported() -> ModuleType:
        before = signal.getsignal(signal.SIGTERM)
        module = importlib.import_module("pycolmap")
        if threading.current_thread() is threading.main_thread():  # where Python allows handlers to be set
            signal.signal(signal.SIGTERM, before)
        return module

    class _AtFirstUse:
        def __getattr__(self, name: str) -> Any:
            return getattr(_imported(), name)

    pycolmap = _AtFirstUse()
