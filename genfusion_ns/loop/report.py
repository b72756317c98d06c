"""What the rounds of a run did, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from genfusion_ns.loop.state import RoundReport

_COLOURS = {"accepted": "green", "lowered": "yellow", "refused": "red", "rolled back": "red", "open": "dim"}


def round_table(reports: Sequence[RoundReport]) -> Table:
    """One row per round. `clips` are all / refused ones, `views` new + replacing / refused; `agreement` is the frames'
    with the photos, 1 = full; `held out` is the PSNR at held-out photos before a round -> after its frames taught, in
    dB; `evidence` is what the outcome rests on."""
    table = Table(title="Rounds of generated views", title_justify="left")
    for name in ("round", "step", "clips", "views", "pool", "splats", "coverage", "agreement", "held out", "s"):
        table.add_column(name, justify="right")
    table.add_column("outcome")
    table.add_column("evidence")
    for report in reports:
        views = f"{report.admitted - report.replaced} + {report.replaced} / {report.refused}"
        table.add_row(
            str(report.round + 1),
            str(report.step),
            f"{report.clips} / {report.clips_refused}",
            views,
            str(report.pool),
            f"+{report.added}",
            f"{report.coverage:.2f}",
            f"{report.agreement:.2f}",
            f"{_decibels(report.before)} -> {_decibels(report.after)}",
            f"{report.seconds:.1f}",
            f"[{_COLOURS[report.outcome]}]{report.outcome}",
            report.evidence,
        )
    return table


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
