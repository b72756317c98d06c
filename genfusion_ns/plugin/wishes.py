"""What the viewer asks of the renders that it shows; nobody else's renders change with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from genfusion_ns.gaussians import provenance
from genfusion_ns.gaussians.edit import State


@dataclass
class ViewerWishes:
    """Read by the model outside of training; without a viewer everything is shown and computed."""

    least_trust: float = 0.0
    """Splats with less (`provenance.levels`) are hidden: 0 = none, 0.5 = the invented, 1 = all but the observed."""
    shown: Callable[[], set[str]] | None = None
    """Names of the outputs that are on the screen; None = nobody tells."""
    _set_aside: bool = False

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Within it nothing is hidden, and only what metrics need is computed: for evaluation beside a viewer."""
        before, self._set_aside = self._set_aside, True
        try:
            yield
        finally:
            self._set_aside = before

    def wants(self, *names: str) -> bool:
        """Whether any of these outputs has to be computed."""
        return not self._set_aside and (self.shown is None or bool(self.shown() & set(names)))

    def looks_at_origins(self) -> bool:
        """Whether a viewer shows, or hides by, who sees which splat."""
        return self.least_trust > 0 or (self.shown is not None and self.wants("coverage", "trust"))

    def visible(self, state: State, inside: Tensor | None) -> Tensor | None:
        """[N] bool: of the splats `inside` [N] (None = all) those that are not hidden; None = all."""
        if self.least_trust <= 0 or self._set_aside:
            return inside
        trusted = provenance.levels(state) >= self.least_trust
        return trusted if inside is None else inside & trusted
