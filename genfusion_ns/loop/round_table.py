"""What the rounds of a run did, as a table that fits 80 columns, and its legend."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from genfusion_ns.loop.state import RoundReport

_COLOURS = {"accepted": "green", "lowered": "yellow", "empty": "yellow", "open": "dim"}
_LEGEND = """\
clips: rendered / refused, since they contradict the photos. views: new + replacing older ones / left out (too little
weight, or an older one agrees better). splats: added where surfaces were missing. cover: mean opacity of the renders.
agree: of the repaired views with the photos, 1 = fully."""
_JUDGED = (
    "dB, sharp: PSNR at photos (those that do not train, where any are spared) and gradient of novel views, in %, "
    "before a round and after it has taught."
)


def round_table(reports: Sequence[RoundReport]) -> Table:
    """One row per round, with a legend below; those of the gate are there if it judged any round."""
    judged = any(report.before is not None for report in reports)
    legend = " ".join(_LEGEND.split("\n")) + (f" {_JUDGED}" if judged else "")
    table = Table(
        title="Rounds of generated views",
        title_justify="left",
        caption=legend,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    for name in (
        "round",
        "step",
        "clips",
        "views",
        "splats",
        "cover",
        "agree",
        *(["dB", "sharp"] if judged else []),
        "s",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for report in reports:
        table.add_row(
            str(report.round + 1),
            str(report.step),
            f"{report.clips}/{report.clips_refused}",
            f"{report.admitted - report.replaced}+{report.replaced}/{report.refused}",
            f"+{report.added}",
            f"{report.coverage:.2f}",
            f"{report.agreement:.2f}",
            *([_change(report, "psnr", 1, 1), _change(report, "novel", 100, 1)] if judged else []),
            f"{report.seconds:.0f}",
            f"[{_COLOURS.get(report.outcome, 'red')}]{report.outcome}",
        )
    return table


def round_line(report: RoundReport, repairer: str) -> str:
    """What one round did, in a sentence."""
    found = report.admitted + report.refused
    if not report.clips:
        return f"round {report.round + 1} at step {report.step}: no pose is safe, {report.seconds:.0f} s"
    return (
        f"round {report.round + 1} at step {report.step}: {report.admitted} of {found} views kept, "
        f"{report.clips_refused} of {report.clips} clips refused ({repairer}), {report.added} splats added, "
        f"coverage {report.coverage:.2f}, {report.seconds:.0f} s"
    )


def _change(report: RoundReport, name: str, factor: float, digits: int) -> str:
    return ">".join("-" if x is None else f"{factor * x[name]:.{digits}f}" for x in (report.before, report.after))
