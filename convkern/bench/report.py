"""Writes a run's results as one HTML page, with its charts as PNG files beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean

from convkern._C import Problem
from convkern._files import check_writable, write_file
from convkern._show import html
from convkern.bench import charts
from convkern.bench.compare import changes, changes_table
from convkern.bench.inference import PEERS, InferenceRow, InferenceTimes, inference_table
from convkern.bench.models import LAYOUT_NAMES, STEP_NAMES, ModelRow, ModelTimes, models_table
from convkern.bench.peers import PASS_NAMES
from convkern.bench.results import Result
from convkern.bench.roofline import points, roofline_table
from convkern.bench.scaling import Series, over_batches, over_threads
from convkern.bench.suite import Row, Suite, geometric_means, table


def check_report(folder: Path) -> None:
    """Makes the folder of a report before anything is measured, so that no measurement is lost.

    Raises:
        ValueError: matplotlib is missing.
        OSError: the folder cannot be made or written into.
    """
    if find_spec("matplotlib") is None:
        raise ValueError("the charts of a report need matplotlib: pip install 'convkern[bench]'")
    check_writable(folder / "index.html")


def read_results(
    paths: Sequence[Path],
) -> tuple[list[Suite], list[ModelTimes], list[InferenceTimes]]:
    """Reads files with results of the suite, of whole models, and of whole models in inference.

    Raises:
        ValueError: a file is none of these.
    """
    results = [_read_result(path) for path in paths]
    return (
        [result for result in results if isinstance(result, Suite)],
        [result for result in results if isinstance(result, ModelTimes)],
        [result for result in results if isinstance(result, InferenceTimes)],
    )


def _read_result(path: Path) -> Result:
    kinds: tuple[type[Result], ...] = (Suite, ModelTimes, InferenceTimes)
    for kind in kinds:
        with suppress(ValueError):
            return kind.read(path)
    programs = " nor of ".join(kind.source for kind in kinds)
    raise ValueError(f"{path} is a result neither of {programs}")


def write_report(
    folder: Path,
    suites: Sequence[Suite],
    models: Sequence[ModelTimes] = (),
    against: Suite | None = None,
    inference: Sequence[InferenceTimes] = (),
) -> Path:
    """Writes `folder`/index.html, which contains its pictures, and the pictures as PNG files.

    Args:
        models: runs over whole models, with torch's layers and with convkern's.
        against: an older run, with which the run of `suites` is compared.
        inference: runs over whole models in inference, by convkern and by other libraries.

    Returns:
        The path of the page.

    Raises:
        ValueError: matplotlib is missing, or `against` has no row in common with `suites`.
        OSError: the folder cannot be written to.
    """
    check_report(folder)
    report = _Report(folder)
    rows = [row for suite in suites for row in suite.rows]
    model_rows = [row for times in models for row in times.rows]
    inference_rows = [row for times in inference for row in times.rows]
    runs: list[Result] = [*suites, *models, *inference]
    sections = [html.paragraph(_when(runs))]
    if rows:
        sections += [
            _summary(rows), report.speed_ups(rows), report.rooflines(suites), report.batches(rows),
            report.threads(rows),
        ]  # fmt: skip
    if model_rows:
        sections.append(report.models(model_rows))
    if inference_rows:
        sections.append(report.inference(inference_rows))
    if against is not None:
        sections.append(report.comparison(against, suites))
    sections.append(_machines(runs))
    page = folder / "index.html"
    write_file(page, html.page("convkern benchmark report", sections))
    return page


class _Report:
    """The sections with pictures. Each picture is also a file in the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def speed_ups(self, rows: Sequence[Row]) -> str:
        parts = []
        for (pass_, where), group in _grouped(rows).items():
            peers = [
                p for p in dict.fromkeys(p for r in group for p in r.samples) if p != "convkern"
            ]
            if not peers:
                continue
            ratios = {peer: [_ratio(row, peer) for row in group] for peer in peers}
            parts.append(
                self._bars(
                    f"speed-up {pass_} {where}", f"{PASS_NAMES[pass_]}, {where}", _names(group),
                    ratios, "the peer's time / convkern's",
                )
            )  # fmt: skip
        parts.append(html.details("The times, median and half the quartiles' distance",
                                  table(rows)._repr_html_()))  # fmt: skip
        return html.section("Speed-up of each layer over each peer", *parts)

    def rooflines(self, suites: Sequence[Suite]) -> str:
        parts, every = [], []
        for suite in suites:
            for peaks in suite.peaks:
                found = points(suite.rows, [peaks])
                if not found:
                    continue
                of_pass = {
                    pass_: (
                        [p.intensity for p in found if p.row.pass_ == pass_],
                        [p.rate for p in found if p.row.pass_ == pass_],
                    )
                    for pass_ in dict.fromkeys(p.row.pass_ for p in found)
                }
                shares = [p.share for p in found]
                where = found[0].row.where
                alt = (
                    f"Scatter of {len(found)} rows below a roof of {peaks.peak * 1e-9:.0f} GFLOP/s "
                    f"and {peaks.bandwidth * 1e-9:.1f} GB/s: {min(shares):.0%} to "
                    f"{max(shares):.0%} of the roof."
                )
                png = charts.roofline(of_pass, peaks.peak, peaks.bandwidth)
                parts.append(self._picture(f"roofline {where}", png, alt, f"float32, {where}"))
                every += found
        if not every:
            note = (
                "No peaks were measured with this run. bench --report measures them, for "
                "float32 on the CPU."
            )
            return html.section("Roofline", html.paragraph(note))
        note = (
            "The roof is what this machine was measured to do at most; FLOPs of products with "
            "padding zeros do not count. What stays in the cache from call to call can be above "
            "the bandwidth's part."
        )
        rows = html.details("Every row's share of its roof", roofline_table(every)._repr_html_())
        return html.section("Roofline", html.paragraph(note), *parts, rows)

    def batches(self, rows: Sequence[Row]) -> str:
        found = over_batches(rows)
        heading = "Scaling with the batch size N"
        if not found:
            note = "No layer was measured with several N: add e.g. --batches 1,8,64."
            return html.section(heading, html.paragraph(note))
        groups: dict[tuple[str, str], list[Series]] = {}
        for series in found:
            groups.setdefault((series.pass_, series.where), []).append(series)
        parts = []
        for (pass_, where), of_layers in groups.items():
            panels = {
                f"{s.label}{' ' * i}": _lines(s, lambda n, seconds, first: seconds / n * 1e6)
                for i, s in enumerate(of_layers)  # blanks keep layers of the same name apart
            }
            caption = f"{PASS_NAMES[pass_]}, {where}"
            alt = f"Lines of the time for an image over N of {len(of_layers)} layers, {caption}. "
            png = charts.lines(panels, "N", "microseconds for an image", log=True)
            alt += "; ".join(_ends(s, "N") for s in of_layers[:4])
            parts.append(self._picture(f"batches {pass_} {where}", png, alt, caption))
        return html.section(heading, *parts)

    def threads(self, rows: Sequence[Row]) -> str:
        found = over_threads(rows)
        heading = "Scaling with threads"
        if not found:
            note = "No layer was measured with several numbers of threads: add e.g. --threads 1,2."
            return html.section(heading, html.paragraph(note))
        groups: dict[tuple[str, tuple[int, ...]], list[Series]] = {}
        for series in found:
            steps = tuple(step for step, _ in series.steps)
            groups.setdefault((series.pass_, steps), []).append(series)
        panels, cells = {}, []
        for (pass_, steps), of_layers in groups.items():
            speeds = [_lines(s, lambda n, seconds, first: first / seconds) for s in of_layers]
            peers = set.intersection(*(set(lines) for lines in speeds))
            means = {
                peer: (steps, [geometric_mean(of) for of in zip(*(s[peer][1] for s in speeds),
                                                                strict=True)])
                for peer in speeds[0] if peer in peers
            }  # fmt: skip
            title = f"{PASS_NAMES[pass_]}, mean of {len(of_layers)} layers"
            panels[title + " " * (title in panels)] = means
            cells += [
                (PASS_NAMES[pass_], peer, str(steps[0]), str(step), f"{speed:.2f}x")
                for peer, (_, mean) in means.items()
                for step, speed in zip(steps[1:], mean[1:], strict=True)
            ]
        png = charts.lines(panels, "threads", "speed, as a multiple")
        alt = "Lines of the speed over threads: " + "; ".join(
            f"{pass_} {peer} {speed} from {few} to {many} threads"
            for pass_, peer, few, many, speed in cells
        )
        caption = "geometric means over the layers of the speed against the fewest threads"
        headings = ("pass", "by", "from threads", "to threads", "speed")
        right = [heading == "speed" for heading in headings]
        return html.section(
            heading, self._picture("threads", png, alt, caption),
            html.details("The means", html.table(headings, right, cells)),
        )  # fmt: skip

    def models(self, rows: Sequence[ModelRow]) -> str:
        keys = list(dict.fromkeys((row.model, row.layout) for row in rows))
        ratios = {
            STEP_NAMES[what]: [
                next((r.ratio for r in rows if (r.model, r.layout, r.what) == (*key, what)), None)
                for key in keys
            ]
            for what in dict.fromkeys(row.what for row in rows)
        }
        names = [f"{model}, {LAYOUT_NAMES[layout]}" for model, layout in keys]
        bars = self._bars("models", "inference and training step", names, ratios,
                          "with torch's layers / with convkern's")  # fmt: skip
        return html.section("Whole models", bars, models_table(rows)._repr_html_())

    def inference(self, rows: Sequence[InferenceRow]) -> str:
        names = [f"{row.model}, batch {row.batch}" for row in rows]
        parts = []
        for ours, which in (("convkern", ""), ("medium", " under precision medium")):
            peers = dict.fromkeys(p for row in rows for p in row.samples if p in PEERS)
            ratios = {peer: [row.ratio_to(peer, ours) for row in rows] for peer in peers}
            if any(ratio is not None for of_peer in ratios.values() for ratio in of_peer):
                parts.append(
                    self._bars(f"inference {ours}", f"convkern.optimize{which}", names, ratios,
                               f"the peer's time / convkern's{which}")
                )  # fmt: skip
        times = inference_table(rows)._repr_html_()
        return html.section("Whole models in inference", *parts, times)

    def comparison(self, old: Suite, suites: Sequence[Suite]) -> str:
        new = Suite({}, "", [row for suite in suites for row in suite.rows])
        found = changes(old, new)
        parts = []
        for (pass_, where), group in _grouped([change.new for change in found]).items():
            of_row = {change.new.key: change.speed for change in found}
            speeds: dict[str, list[float | None]] = {"convkern": [of_row[r.key] for r in group]}
            parts.append(
                self._bars(
                    f"changes {pass_} {where}", f"{PASS_NAMES[pass_]}, {where}", _names(group),
                    speeds, "the new run's speed / the old one's",
                )
            )  # fmt: skip
        slower = sum(change.verdict == "slower" for change in found)
        note = (
            f"{slower} of {len(found)} rows slower than in the run of {old.started or 'before'}. "
            "Where both runs timed torch, what is compared is the ratio to torch."
        )
        return html.section(
            "Compared with an older run",
            html.paragraph(note),
            *parts,
            changes_table(found)._repr_html_(),
        )

    def _bars(
        self, name: str, caption: str, names: Sequence[str],
        series: dict[str, list[float | None]], axis: str,
    ) -> str:  # fmt: skip
        texts = []
        for label, ratios in series.items():
            found = [(r, n) for r, n in zip(ratios, names, strict=True) if r is not None]
            if found:
                (low, least), (high, most) = min(found), max(found)
                texts.append(f"{label} {low:.2f}x ({least}) to {high:.2f}x ({most})")
        alt = f"Bars of {len(names)} rows, {caption}, {axis}: {'; '.join(texts)}."
        return self._picture(name, charts.bars(names, series, axis), alt, caption)

    def _picture(self, name: str, png: bytes, alt: str, caption: str) -> str:
        path = self._folder / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.png"
        write_file(path, png)
        return html.picture(png, alt, caption)


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.pass_, row.where), []).append(row)
    return groups


def _names(rows: Sequence[Row]) -> list[str]:
    """Returns labels, with dtype and layout where the rows differ in them."""
    problems = [Problem(row.problem) for row in rows]
    several = [len({p.dtype for p in problems}) > 1, len({p.layout for p in problems}) > 1]
    return [
        ", ".join([row.label, *[p.dtype] * several[0], *[LAYOUT_NAMES[p.layout]] * several[1]])
        for row, p in zip(rows, problems, strict=True)
    ]


def _ratio(row: Row, peer: str) -> float | None:
    sample = row.samples.get(peer)
    return None if sample is None else sample.median / row.samples["convkern"].median


def _lines(series: Series, value: Callable[[int, float, float], float]) -> dict[str, charts.Line]:
    """Returns a line of value(step, its seconds, the first step's seconds) for each peer that was
    timed at all steps."""
    first = series.steps[0][1].samples
    return {
        whose: (
            [step for step, _ in series.steps],
            [value(n, row.samples[whose].median, first[whose].median) for n, row in series.steps],
        )
        for whose in first
        if all(whose in row.samples for _, row in series.steps)
    }


def _ends(series: Series, what: str) -> str:
    ends = (series.steps[0], series.steps[-1])
    times = (f"{row.samples['convkern'].median / n * 1e6:.3g} at {what} {n}" for n, row in ends)
    return f"{series.label}: convkern {', '.join(times)}"


def _summary(rows: Sequence[Row]) -> str:
    cells = [
        (PASS_NAMES[pass_], where, f"{mean:.2f}x")
        for (pass_, where), mean in geometric_means(rows).items()
    ]
    note = "Geometric means of the speed-up over the faster of torch's two layouts:"
    if not cells:
        return html.paragraph("torch was not among the peers: there is no mean speed-up over it.")
    return html.paragraph(note) + html.table(
        ("pass", "on", "speed-up"), (False, False, True), cells
    )


def _when(runs: Sequence[Result]) -> str:
    times = ", ".join(run.started for run in runs)
    return (
        f"Measured at {times}, through the public API, calls in turn in one process, "
        "allocation of the results included."
    )


def _machines(runs: Sequence[Result]) -> str:
    tables = dict.fromkeys(html.facts(run.machine.items()) for run in runs)
    return html.section("Machine", *tables)
