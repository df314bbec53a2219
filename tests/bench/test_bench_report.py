"""The benchmarks' report: the page and the files beside it. No test checks a time."""

import base64
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chromium import show
from convkern import _C
from convkern.bench import Suite, check_report, read_results, with_batch, write_report
from convkern.bench.results import Result
from convkern.bench.roofline import points
from convkern.bench.scaling import over_batches, over_threads
from convkern.cli import main
from results import inference, models, suite

TINY = "n2c1h8w8k1r3s3_f32_nchw_fwd+bias+relu#tiny"
QUICK = ["--shapes", TINY, "--passes", "fwd", "--peers", "torch", "--seconds", "0"]
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """The headings, the pictures as (alternative text, bytes), and all the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.pictures: list[tuple[str, bytes]] = []
        self.words: list[str] = []
        self.tags: set[str] = set()
        self._heading = False
        self.feed(path.read_text())
        self.text = "\n".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        if tag == "img":
            kind, _, data = (values["src"] or "").partition(",")
            assert kind == "data:image/png;base64"
            self.pictures.append((values["alt"] or "", base64.b64decode(data)))
        self._heading = tag in ("h1", "h2")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._heading and data.strip():
            self.headings.append(data)


@pytest.fixture
def needs_matplotlib() -> None:
    pytest.importorskip("matplotlib")


@pytest.mark.usefixtures("needs_matplotlib")
def test_the_page_has_every_section_and_holds_its_pictures(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    path = write_report(out, [suite()], [models()], suite(speed=1.5), [inference()])
    page = Page(path)
    assert path == tmp_path / "new" / "out" / "index.html"
    assert page.headings == [
        "convkern benchmark report", "Speed-up of each layer over each peer", "Roofline",
        "Scaling with the batch size N", "Scaling with threads", "Whole models",
        "Whole models in inference", "Compared with an older run", "Machine",
    ]  # fmt: skip
    files = {file.name: file.read_bytes() for file in path.parent.glob("*.png")}
    assert sorted(files.values()) == sorted(data for _, data in page.pictures)
    assert all(data.startswith(PNG) for data in files.values())
    assert {
        "speed-up-fwd-1-thread.png", "roofline-2-threads.png", "threads.png", "models.png",
        "inference-convkern.png", "inference-medium.png", "batches-fwd-bwd-4-threads.png",
        "changes-fwd-2-threads.png",
    } <= set(files)  # fmt: skip
    assert not page.tags & {"script", "iframe"}
    assert "http" not in re.sub(r"data:[^\"]*", "", path.read_text())
    assert "<avx2>" in page.text  # escaped in the source


@pytest.mark.usefixtures("needs_matplotlib")
def test_the_page_says_in_words_what_pictures_show(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, [suite()], [models()], suite(speed=1.5), [inference()]))
    texts = [text for text, _ in page.pictures]
    assert all(len(text) > 40 for text in texts)
    assert (
        "Bars of 3 rows, forward, 1 thread, the peer's time / convkern's: torch 2.00x "
        "(net/deep.batch1) to 2.00x (net/wide); torch_channels_last 0.80x (net/wide) to 13.00x "
        "(net/deep.batch16); onnxruntime 5.00x (net/deep.batch1) to 5.00x (net/wide)."
    ) in texts
    assert any(text.startswith("Scatter of 6 rows below a roof of 300 GFLOP/s") for text in texts)
    assert any("net/deep: convkern 1e+03 at N 1, 1e+03 at N 16" in text for text in texts)
    assert any("forward convkern 1.74x from 1 to 2 threads" in text for text in texts)
    assert any("0.67x (net/deep.batch1) to 0.67x" in text for text in texts)
    assert any("inference 0.90x (resnet50, NCHW) to 1.20x" in text for text in texts)
    assert (
        "Bars of 4 rows, convkern.optimize, the peer's time / convkern's: torch 3.00x (resnet18, "
        "batch 1) to 3.00x (unet, batch 8); openvino 1.50x (resnet18, batch 1) to 1.50x (resnet18, "
        "batch 8)."
    ) in texts
    assert any("precision medium: torch 3.75x (resnet18, batch 1)" in text for text in texts)
    assert "18 of 18 rows slower than in the run of 2026-01-02T03:04:05+00:00" in page.text


@pytest.mark.usefixtures("needs_matplotlib")
def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    one = Suite({}, "", suite().rows[:1])
    page = Page(write_report(tmp_path, [one]))
    assert "add e.g. --batches 1,8,64" in page.text
    assert "add e.g. --threads 1,2" in page.text
    assert "No peaks were measured with this run" in page.text
    assert len(page.pictures) == 1
    page = Page(write_report(tmp_path, [], [models()]))
    assert page.headings == ["convkern benchmark report", "Whole models", "Machine"]
    page = Page(write_report(tmp_path, [], inference=[inference()]))
    assert page.headings == ["convkern benchmark report", "Whole models in inference", "Machine"]
    assert len(page.pictures) == 2
    rows = [replace(row, samples={"convkern": row.samples["convkern"]}) for row in inference().rows]
    page = Page(write_report(tmp_path, [], inference=[replace(inference(), rows=rows)]))
    assert page.pictures == []
    assert "80.00 ±10%" in page.text


@pytest.mark.usefixtures("needs_matplotlib")
def test_layouts_of_the_same_layer_are_told_apart(tmp_path: Path) -> None:
    row = suite().rows[0]
    other = replace(row, problem=row.problem.replace("nchw", "nhwc"))
    page = Page(write_report(tmp_path, [Suite({}, "", [row]), Suite({}, "", [other])]))
    assert "(net/wide, NCHW)" in page.pictures[0][0]
    assert "(net/wide, channels_last)" in page.pictures[0][0]


def test_series_differ_in_one_thing_only() -> None:
    rows = suite().rows
    batches = over_batches(rows)
    assert {(s.label, s.pass_, s.where) for s in batches} == {
        ("net/deep", pass_, where)
        for pass_ in ("fwd", "fwd_bwd")
        for where in ("1 thread", "2 threads", "4 threads")
    }
    assert all([n for n, _ in s.steps] == [1, 16] for s in batches)
    threads = over_threads(list(reversed(rows)))
    assert len(threads) == 6
    assert all([n for n, _ in s.steps] == [1, 2, 4] for s in threads)
    assert over_batches(rows[:2]) == over_threads(rows[:2]) == []


def test_a_roof_is_of_float32_at_a_number_of_threads_that_was_measured() -> None:
    run = suite()
    found = points(run.rows, run.peaks)
    assert {p.row.threads for p in found} == {1, 2}
    wide = found[0]  # n8c64h56w56k64 3x3, without products with padding zeros
    flops = 2 * 8 * 64 * 64 * (3 * 56 - 2) ** 2
    assert wide.rate == pytest.approx(flops / 8e-3)
    assert wide.intensity == pytest.approx(flops / (4 * (2 * 8 * 64 * 56 * 56 + 64 * 64 * 9)))
    assert (wide.bound, wide.share) == ("multiply-adds", pytest.approx(wide.rate / 300e9))
    double = [replace(row, problem=row.problem.replace("f32", "f64")) for row in run.rows]
    assert points(double, run.peaks) == []


def test_peaks_survive_writing_and_older_files_have_none(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    suite().write(path)
    assert Suite.read(path) == suite()
    path.write_text('{"machine": {}, "started": "", "rows": []}')
    assert Suite.read(path).peaks == []


def test_results_are_told_by_what_is_in_them(tmp_path: Path) -> None:
    layers, whole, fast, other = (tmp_path / f"{n}.json" for n in ("a", "b", "c", "other"))
    suite().write(layers)
    models().write(whole)
    inference().write(fast)
    assert read_results([fast, layers, whole]) == ([suite()], [models()], [inference()])
    other.write_text("{}")
    message = r"other\.json is a result neither of the benchmark suite nor of bench models nor of b"
    with pytest.raises(ValueError, match=message):
        read_results([layers, other])


def test_a_batch_size_is_in_the_name() -> None:
    assert with_batch(TINY, 64) == "n64c1h8w8k1r3s3_f32_nchw_fwd+bias+relu#tiny.batch64"
    assert with_batch("n2c1h8w8k1r3s3_f32_nchw_fwd", 1) == "n1c1h8w8k1r3s3_f32_nchw_fwd"


@pytest.mark.usefixtures("needs_matplotlib")
def test_the_command_measures_writes_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "run.json", tmp_path / "report"
    options = ["--batches", "1,3", "--threads", "1,2", "--out", str(out), "--report", str(folder)]
    assert main(["bench", *QUICK, *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {folder / 'index.html'}"
    run = Suite.read(out)
    assert [row.problem[:2] for row in run.rows] == ["n1", "n3"] * 2
    assert [peaks.threads for peaks in run.peaks] == [1, 2]
    assert sorted(file.name for file in folder.iterdir()) == [
        "batches-fwd-1-thread.png", "batches-fwd-2-threads.png", "index.html",
        "roofline-1-thread.png", "roofline-2-threads.png", "speed-up-fwd-1-thread.png",
        "speed-up-fwd-2-threads.png", "threads.png",
    ]  # fmt: skip
    again = tmp_path / "again"
    assert main(["bench", "report", str(again), str(out)]) == 0
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.usefixtures("needs_matplotlib")
def test_the_command_compares_with_an_older_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, folder = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "report"
    suite(speed=1.5).write(old)
    suite().write(new)
    report = ["bench", "report", str(folder)]
    assert main([*report, str(new), "--against", str(old)]) == 1
    printed = capsys.readouterr().out
    assert "18 slower" in printed
    assert printed.endswith(f"report: {folder / 'index.html'}\n")
    assert "Compared with an older run" in (folder / "index.html").read_text()
    assert main(["bench", "compare", str(old), str(new)]) == 1
    assert printed.startswith(capsys.readouterr().out)
    assert main(["bench", "compare", str(new), str(old)]) == 0
    assert main([*report, str(new), "--against", str(new)]) == 0  # all bars are 1x


@pytest.mark.usefixtures("needs_matplotlib")
def test_without_memory_there_is_no_roofline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(isa: str) -> None:
        raise MemoryError

    monkeypatch.setattr(_C, "measure_peak", fail)
    assert main(["bench", *QUICK, "--threads", "1", "--report", str(tmp_path)]) == 0
    assert "no roofline: measuring the bandwidth needs 384 MiB" in capsys.readouterr().out
    assert not list(tmp_path.glob("roofline*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "out", "missing.json"], "missing.json"),
        (["report", "file", "missing.json"], "file"),
        (["compare", "missing.json", "file"], "missing.json"),
        (["compare", "file", "file"], "file is not a result of the benchmark suite"),
        ([*QUICK, "--against", "missing.json"], "missing.json"),
        ([*QUICK, "--report", "file"], "file"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "foreign"),
    [
        (["compare", "old.json", "new.json", "--report", "out"], "--report out"),
        (["compare", "old.json", "new.json", "--shapes", "lenet"], "--shapes lenet"),
        (["models", "resnet18", "--against", "old.json"], "--against old.json"),
        (["models", "resnet18", "--device", "cuda"], "--device cuda"),
        (["models", "resnet18", "--tf32"], "--tf32"),
        (["report", "out", "new.json", "--out", "file"], "--out file"),
        (["--shapes", "lenet", "models"], "models"),
        (["--shapes", "lenet", "--train"], "--train"),
    ],
)
def test_the_command_does_one_thing_at_a_time(
    arguments: list[str], foreign: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", *arguments])
    assert exit_.value.code == 2
    assert f"unrecognized arguments: {foreign}" in capsys.readouterr().err


def changed(result: Result, path: list[str | int], value: object) -> str:
    """Returns the JSON of a result with one value changed."""
    whole = json.loads(json.dumps(asdict(result)))
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(whole)


WRONG = [
    (["machine"], []),
    (["machine", "torch"], 2.14),
    (["started"], None),
    (["rows"], {}),
    (["rows", 0], "row"),
    (["rows", 0, "samples"], []),
    (["rows", 0, "samples"], {}),
    (["rows", 0, "samples", "convkern"], 1.0),
    (["rows", 0, "samples", "torch", "median"], "1"),
    (["rows", 0, "samples", "torch", "median"], 0.0),
    (["rows", 0, "samples", "torch", "rounds"], 1.5),
    (["rows", 0, "extra"], 1),
]
WRONG_OF_SUITES = [
    (["rows", 0, "problem"], 1),
    (["rows", 0, "problem"], "n8c3"),
    (["rows", 0, "pass_"], "gx"),
    (["rows", 0, "pass_"], ["fwd"]),
    (["rows", 0, "threads"], "2"),
    (["rows", 0, "threads"], 0),
    (["rows", 0, "kernels"], "fwd"),
    (["rows", 0, "kernels"], [None]),
    (["rows", 0, "device"], None),
    (["rows", 0, "tf32"], 1),
    (["peaks"], None),
    (["peaks", 0], [1, 2, 3]),
    (["peaks", 0, "threads"], "1"),
    (["peaks", 0, "peak"], -1.0),
    (["peaks", 0, "bandwidth"], None),
]
WRONG_OF_INFERENCE = [
    (["rows", 0, "model"], None),
    (["rows", 0, "batch"], 1.5),
    (["rows", 0, "layout"], "nchw"),
]
WRONG_OF_MODELS = [
    (["rows", 0, "model"], None),
    (["rows", 0, "layout"], "chwn"),
    (["rows", 0, "layout"], {}),
    (["rows", 0, "what"], "testing"),
]


@pytest.mark.usefixtures("needs_matplotlib")
@pytest.mark.parametrize(
    ("result", "path", "value"),
    [
        *((suite(), *wrong) for wrong in (*WRONG, *WRONG_OF_SUITES)),
        *((models(), *wrong) for wrong in (*WRONG, *WRONG_OF_MODELS)),
        *((inference(), *wrong) for wrong in (*WRONG, *WRONG_OF_INFERENCE)),
    ],
)
def test_a_result_with_a_wrong_value_is_refused_in_a_line(
    result: Result, path: list[str | int], value: object,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    good, bad, out = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "out"
    suite().write(good)
    bad.write_text(changed(result, path, value))
    for arguments in (
        ["report", str(out), str(bad)],
        ["report", str(out), str(good), "--against", str(bad)],
        ["compare", str(good), str(bad)],
        ["compare", str(bad), str(good)],
        [*QUICK, "--against", str(bad)],
    ):
        assert main(["bench", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"convkern: {bad} is ")
        assert error.count("\n") == 1
    assert not (out / "index.html").exists()


def test_matplotlib_is_missed_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("convkern.bench.report.find_spec", lambda name: None)
    monkeypatch.setattr("convkern.cli.bench.run_suite", lambda *_, **__: pytest.fail("measured"))
    assert main(["bench", *QUICK, "--report", str(tmp_path)]) == 2
    assert "pip install 'convkern[bench]'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="matplotlib"):
        check_report(tmp_path)


def test_importing_the_benchmarks_imports_no_matplotlib() -> None:
    code = "import sys, convkern.cli; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.usefixtures("needs_matplotlib")
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_a_screen_in_a_browser(width: int, tmp_path: Path) -> None:
    page = write_report(tmp_path / "out", [suite()], [models()], suite(speed=1.5), [inference()])
    pictures = len(list(page.parent.glob("*.png")))
    show(page.read_text(), width, tmp_path).check(width, pictures)
