"""The study's results as a table: its cells, and how a terminal shows them."""

from __future__ import annotations

from convkern._show.tables import Table
from convkern.fashion_mnist.study.results import Study, Summary, summaries

HEADINGS = (
    "model", "learned", "test loss", "accuracy", "parameters", "receptive field",
    "multiply-adds", "epoch, convkern", "epoch, nn.Conv2d",
)  # fmt: skip


def results_rows(study: Study) -> list[list[str]]:
    """Returns a row of cells for each model, under `HEADINGS`.

    Loss and accuracy are means over the seeds that learned, with their standard deviation.
    """
    rows = []
    for model, shape in study.shapes.items():
        runs, learned = study.of(model), study.of(model, learned_only=True)
        summary = summaries(learned)
        rows.append(
            [
                model,
                f"{len(learned)} of {len(runs)}",
                _with_spread(summary["test_loss"]),
                _with_spread(summary["accuracy"]),
                f"{shape.parameters:,}",
                f"{shape.field}x{shape.field}",
                f"{shape.multiply_adds:,}",
                *(_seconds(study.epoch_seconds(model, conv)) for conv in ("convkern", "torch")),
            ]
        )
    return rows


def results_table(study: Study) -> Table:
    table = Table(HEADINGS[:1], HEADINGS[1:])
    for row in results_rows(study):
        table.add_row(*row)
    return table


def _with_spread(summary: Summary) -> str:
    return summary.with_spread(3) if summary.count else "-"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
