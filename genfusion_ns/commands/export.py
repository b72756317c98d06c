"""`genfusion-export`: a trained run's splats for other viewers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from genfusion_ns.errors import UserError, exits_cleanly
from genfusion_ns.files import check_output, replacing
from genfusion_ns.gaussians.export import exportable, ply_table, write_ply, write_spz

SUFFIXES = (".ply", ".spz")


@dataclass
class Export:
    """Write a run's splats as .ply, which every splat viewer reads, or as .spz, a tenth of the size, for the web."""

    load_config: Path
    """config.yml of the run, as ns-train wrote it: outputs/<scene>/<method>/<time>/config.yml."""
    output: Path = Path("splat.ply")
    """Where to write: .ply or .spz; an existing file is replaced."""
    provenance: bool = False
    """Add a property to the .ply: 0 = photos show the splat, 1 = only repaired views do, 2 = it was invented."""


@exits_cleanly
def run(arguments: Export) -> None:
    """Load the run and write its splats, in the run's world.

    Raises:
        UserError: a path that cannot work, or nothing to write.
    """
    check_output(arguments.output, SUFFIXES)
    if arguments.provenance and arguments.output.suffix != ".ply":
        raise UserError(f"--provenance needs a .ply, but --output is {arguments.output}; .spz has no room for it.")
    from genfusion_ns.gaussians.provenance import classify
    from genfusion_ns.plugin.runs import load_run

    model = load_run(arguments.load_config).pipeline.model
    params = {name: value.detach() for name, value in model.gauss_params.items()}
    kept = exportable(params)
    if not bool(kept.any()):
        raise UserError(f"{arguments.load_config} has no splat that could be seen; train it longer.")
    params = {name: value[kept] for name, value in params.items()}
    with replacing(arguments.output) as temporary:
        if arguments.output.suffix == ".spz":
            write_spz(temporary, params)
        else:
            write_ply(
                temporary, ply_table(params, classify(model.densifier_state)[kept] if arguments.provenance else None)
            )
    size = arguments.output.stat().st_size / 2**20
    Console().print(f"wrote {int(kept.sum()):,} splats to {arguments.output}, {size:.1f} MiB", highlight=False)


def main() -> None:
    """Entry point."""
    run(tyro.cli(Export))


if __name__ == "__main__":
    main()
