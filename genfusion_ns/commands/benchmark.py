"""`genfusion-benchmark`: held-out quality and cost of methods on scenes."""

from __future__ import annotations

import tyro

from genfusion_ns.benchmark import run
from genfusion_ns.benchmark.run import Benchmark


def main() -> None:
    """Entry point of `genfusion-benchmark`."""
    run.run(tyro.cli(Benchmark, description=run.__doc__))


if __name__ == "__main__":
    main()
