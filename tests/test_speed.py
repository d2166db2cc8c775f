"""The speed harness: turns, ratios, goals, results on disk, and a whole run at toy sizes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import cold, page, plots, results, suite
from benchmarks.results import About, Results, judge, slope
from benchmarks.suite import GOALS, Goal

from attnspec.runtime import rounds as turns
from attnspec.runtime.bench import BOTH, FORWARD, OURS, Measured, Request, Row, Shape, bench
from attnspec.runtime.rounds import Memory, Spread, ratios, rounds, spread
from attnspec.runtime.tiles import describing

ROOT = Path(__file__).parent.parent
ABOUT = About("Chip 5", "cpu", 2, "2.13", "3.7", "abc", True, "2026-01-02 03:04", 0.5)


NAMES = ("speed-Chip_5_2_threads.svg", "memory-Chip_5_2_threads.svg")


def measured(
    case: str = "causal",
    phase: str = FORWARD,
    ours: float = 1.0,
    theirs: float = 1.0,
    size: int | None = None,
    **more: object,
) -> Measured:
    """A result in which `sdpa`, `eager` and `flex` all took the same time."""
    ratio = Spread(ours / theirs / 2, ours / theirs, ours / theirs * 2)
    others = [
        Row(name, Spread(theirs, theirs, theirs), ratio, 7, 10.0, 20.0, 5, "made")
        for name in ("sdpa", "eager", "flex")
    ]
    rows = (Row(OURS, Spread(ours, ours, ours), None, size), *others)
    base = Measured(case, case, phase, "cpu", "float32", 1, 8, 8, 4096, 4096, 64, 1000, rows)
    return replace(base, **more)  # type: ignore[arg-type]


def test_quartiles() -> None:
    assert spread([3.0]) == Spread(3.0, 3.0, 3.0)
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(2.0, 3.0, 4.0)
    assert spread([1.0, 2.0]) == Spread(1.25, 1.5, 1.75)


def test_ratios_are_of_one_round() -> None:
    """A slow second doubles both times and changes no ratio."""
    ours, theirs = [1.0, 2.0, 1.0, 8.0], [2.0, 4.0, 2.0, 16.0]
    assert ratios(ours, theirs) == Spread(0.5, 0.5, 0.5)


def test_every_round_calls_each_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_SAMPLE", 0.0)  # no call is repeated
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    found = rounds(calls, "cpu", seconds=0.0)
    assert {name: len(times) for name, times in found.items()} == dict.fromkeys("abc", turns.LEAST)
    assert "".join(order) == "abc" + "abcbcacababcbca"
    assert len(rounds(calls, "cpu", seconds=9.0, limit=0.0)["a"]) == 1


def test_memory_is_what_is_in_use_at_once() -> None:
    numbers = 2**24 // 4  # 16 MiB

    def call() -> None:
        one = torch.ones(numbers)
        two = one + 1
        del one
        three = two * 2
        assert three[0] == 4

    call()
    peak = Memory("cpu").peak(call)
    if peak is None:
        pytest.skip("this system does not tell")
    assert peak + 2**20 >= 2 * 2**24
    assert peak <= 2 * 2**24 + 2**22


def test_what_differs_from_ours_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.Tensor.softmax

    def wrong(x: torch.Tensor, dim: int) -> torch.Tensor:
        return right(x, dim) * 1.01

    monkeypatch.setattr(torch.Tensor, "softmax", wrong)
    shape = Shape(heads=2, length=16, channels=8)
    (found,) = bench(Request("full", shape, ("eager", "sdpa"), (FORWARD,), seconds=0.0))
    eager, sdpa = found.row("eager"), found.row("sdpa")
    assert eager is not None
    assert sdpa is not None
    assert eager.why.startswith("its results differ from ours by 1.0e-02")
    assert (eager.ratio, eager.milliseconds) == (None, None)
    assert sdpa.ratio is not None


def test_what_does_not_run_is_reported_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of room\nand more")

    shape = Shape(heads=2, length=16, channels=8)
    monkeypatch.setattr("attnspec.runtime.bench._ours", broken)
    found = list(bench(Request("full", shape, (), seconds=0.0)))
    assert [one.wrong for one in found] == ["RuntimeError: out of room"] * 2
    assert [one.found for one in found] == [(), ()]


def test_memory_of_a_call_holds_its_output_and_gradients() -> None:
    """A call at least gives what it gives; the gradient from above is an argument."""
    shape = Shape(heads=4, length=256, channels=64)
    size = 4 * 256 * 64 * 4
    for timed in (True, False):
        request = Request("full", shape, ("sdpa",), seconds=0.0, timed=timed)
        for found, least in zip(bench(request), (size, 4 * size), strict=True):
            for row in found.found:
                if row.bytes is None:
                    pytest.skip("this system does not tell")
                assert row.bytes > 0.8 * least
                assert (row.milliseconds is not None) == timed
            sdpa = found.row("sdpa")
            assert sdpa is not None
            assert sdpa.bytes is not None
            assert sdpa.bytes < 3 * least


def test_arguments_that_are_constant_get_no_gradient() -> None:
    notes = []
    for constant in ((), ("slope",)):
        shape = Shape(heads=2, length=16, channels=8)
        request = Request("alibi", shape, ("eager",), (BOTH,), constant=constant, seconds=0.0)
        (found,) = bench(request)
        row = found.row("eager")
        assert row is not None
        notes.append(row.note)
    assert notes == ["mask and bias made in each call", "mask and bias made beforehand"]


def test_results_survive_the_disk(tmp_path: Path) -> None:
    one = Results(ABOUT, (measured(), measured(phase=BOTH, found=(), wrong="no")), ("late",))
    file = results.write(one, tmp_path)
    assert file == tmp_path / "Chip_5_2_threads" / "2026-01-02-03-04.json"
    assert results.read(file) == one
    later = replace(one, about=replace(ABOUT, date="2026-02-02 03:04"))
    results.write(later, tmp_path)
    gpu = replace(one, about=replace(ABOUT, machine="H200", device="cuda"))
    results.write(gpu, tmp_path)
    assert results.latest(tmp_path) == (gpu, later)


@pytest.mark.parametrize(
    ("goal", "found", "value", "verdict"),
    [
        (Goal("cpu", "ratio", FORWARD, "causal", 1.0, "sdpa"), [measured(ours=0.9)], 0.9, "met"),
        (Goal("cpu", "ratio", FORWARD, "causal", 1.0, "sdpa"), [measured(ours=1.1)], 1.1, "missed"),
        (
            Goal("cpu", "ratio", FORWARD, "", 1.0, "flex"),
            [measured(ours=0.5), measured("sink", ours=3.0)],
            3.0,
            "missed",
        ),
        (
            Goal("cpu", "ratio", BOTH, "causal", 1.0, "sdpa"),
            [measured(), measured("ALiBi", BOTH)],
            None,
            "not measured",
        ),
        (Goal("cuda", "ratio", FORWARD, "causal", 1.0, "sdpa"), [measured()], None, "not measured"),
        (
            Goal("cpu", "ratio", FORWARD, "causal", 1.0, "sdpa", 64, 4096),
            [measured(channels=128, ours=9.0), measured(columns=512, ours=9.0), measured(ours=0.5)],
            0.5,
            "met",
        ),
        (
            # 4 * 64 * 10^9 operations in 100 ms are 2.56 TFLOP/s
            Goal("cpu", "TFLOP/s", FORWARD, "causal", 2.0),
            [measured(ours=100.0, pairs=10**9), measured("ALiBi", ours=1e6)],
            2.56,
            "met",
        ),
        (
            # 2.5 times as many in the 200 ms that backward adds
            Goal("cpu", "backward TFLOP/s", BOTH, "causal", 4.0),
            [measured(ours=100.0, pairs=10**9), measured(phase=BOTH, ours=300.0, pairs=10**9)],
            3.2,
            "missed",
        ),
        (
            Goal("cpu", "memory slope", FORWARD, "causal", 1.1),
            [measured(size=n * n, columns=n) for n in (1024, 2048, 8192)],
            2.0,
            "missed",
        ),
    ],
)
def test_goals(goal: Goal, found: Sequence[Measured], value: float | None, verdict: str) -> None:
    (judged,) = judge([goal], [Results(ABOUT, tuple(found))])
    assert judged.value == pytest.approx(value)
    assert judged.text == verdict


def test_slope_is_of_the_nearest_line() -> None:
    assert slope([(n, 5 * n) for n in (10, 100, 1000)]) == pytest.approx(1.0)
    assert slope([(1, 1), (2, 4), (4, 4)]) == pytest.approx(1.0)
    assert slope([(1, 1), (2, 2), (4, None)]) is None


def test_every_goal_is_of_something_in_the_suite() -> None:
    for device, requests in (("cpu", suite.cpu()), ("cuda", suite.gpu())):
        asked = [
            (request.case, phase, name)
            for request in requests
            for phase in request.phases
            for name in (*request.against, "")
        ]
        for goal in GOALS:
            if goal.device == device and goal.case:
                assert (goal.case, goal.phase, goal.against) in asked, goal.text


def test_the_suite_holds_what_it_is_said_to_hold() -> None:
    gpu = list(suite.gpu())
    described = {request.case for request in gpu if request.descriptors}
    assert described == {case.name for case in suite.DESCRIBED}
    assert {request.case for request in gpu} == {*suite.CASES, *described}
    assert {request.case for request in gpu if request.shape.rows == 1} == {"causal", "GQA 4:1"}
    assert {request.shape.channels for request in gpu} == {64, 96, 128, 256}
    assert {request.shape.length for request in gpu} >= {512, 65_536, 131_072}
    assert {request.shape.dtype for request in gpu} == {"bfloat16", "float16"}
    assert {request.case for request in suite.cpu()} == set(suite.CASES)
    first = next(suite.cpu()).shape
    assert (first.batch, first.heads, first.length, first.channels) == (1, 8, 4096, 64)


def test_by_descriptors_means_that_they_load_our_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numeric check included."""
    seen: list[bool] = []

    def note(*given: object) -> str:
        seen.append(describing())
        return ""

    monkeypatch.setattr("attnspec.runtime.bench._ours", note)
    monkeypatch.setattr("attnspec.runtime.bench._held", note)
    for asked in (True, False):
        shape = Shape(heads=2, length=16, channels=8)
        bench(Request("full", shape, (), (FORWARD,), timed=False, descriptors=asked))
        assert seen == [asked, asked]
        seen.clear()


def test_the_page_says_what_was_found_and_what_was_not() -> None:
    lost = Row("sdpa", why="sdpa takes no sink")
    found = (
        measured(ours=0.5, theirs=1.0),
        measured("sink", ours=2.0, found=(measured().found[0], lost)),
        *(measured(size=n * 2**20, columns=n, found=(Row(OURS, bytes=n),)) for n in (1, 2)),
    )
    text = page.run(Results(ABOUT, found, ("late",)))
    assert "| causal | B1 H8 N4096 D64 float32 | forward | 0.5 ms | 0.50 (0.25-1.00), 1 ms " in text
    assert "| CPU | causal, forward: our time over sdpa's <= 1 " in text
    assert "- sdpa: sdpa takes no sink (sink)" in text
    assert "- no time was left for: late" in text
    assert "Chip 5, 2 threads; torch 2.13, triton 3.7; commit abc; 2026-01-02 03:04 UTC" in text


def test_the_page_and_pictures_are_those_of_the_results(tmp_path: Path) -> None:
    runs = results.latest()
    assert (ROOT / "docs" / "speed.md").read_text() == page.page(runs, results.waits())
    for made in plots.draw(runs, tmp_path):
        assert (ROOT / "docs" / made.name).exists()


def test_waits_are_kept_and_shown(tmp_path: Path) -> None:
    times = {"import": [0.01], "call": [50e-6, 70e-6, 61e-6], "recording": [9e-6]}
    figures = tuple(cold.figure(what, "causal", found) for what, found in times.items())
    run = results.Waits(ABOUT, figures)
    results.write(Results(ABOUT, ()), tmp_path)
    file = results.write(run, tmp_path)
    assert file.parent.name == "cold"
    assert results.waits(tmp_path) == (run,)
    assert results.latest(tmp_path) == (Results(ABOUT, ()),)
    rows = [
        line.split("|")[2:6] for line in page.page([], [run]).splitlines() if "causal |" in line
    ]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["causal", "0.01 s", "0.05 s", "met"],
        ["causal", "61 µs", "60 µs", "missed"],
        ["causal", "9 µs", "", ""],
    ]


def test_pictures_are_the_same_every_time(tmp_path: Path) -> None:
    run = Results(
        ABOUT,
        (
            measured(),
            measured(phase=BOTH),
            *(measured(columns=n, found=(Row(OURS, bytes=n),)) for n in (10, 20)),
        ),
    )
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        made = plots.draw([run], tmp_path / folder)
        assert [file.name for file in made] == list(NAMES)
    text = page.page([run])
    for name in NAMES:
        assert f"]({name})" in text
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two


def test_without_a_gpu_its_suite_runs_under_the_interpreter(tmp_path: Path) -> None:
    """Every implementation is prepared, held against the others and timed; nothing is kept."""
    command = [sys.executable, "-m", "benchmarks.speed", "gpu", "--only", "ALiBi", "-o", "kept"]
    folders = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": folders, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.startswith("no CUDA GPU here: toy sizes")
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ALiBi ")]
    assert len(lines) == 4  # forward and backward, two head dimensions
    assert all(line.endswith("| reference, sdpa, eager |") for line in lines)
    assert not (tmp_path / "kept").exists()
