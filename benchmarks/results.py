"""Results of a run: where they are kept, what they are of, and what they say of the goals."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import types
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import triton
from benchmarks.cold import Figure
from benchmarks.suite import Goal

from attnspec.runtime.bench import BOTH, FORWARD, OURS, Measured

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class About:
    """What was measured and where. `clean`: the working tree was that of the commit; `load` are
    the other processes that were running, on average, in the minute before."""

    machine: str
    device: str
    threads: int
    torch: str
    triton: str
    commit: str
    clean: bool
    date: str
    load: float

    @property
    def name(self) -> str:
        """The machine, and how much of it was used."""
        return self.machine if self.device == "cuda" else f"{self.machine}, {self.threads} threads"

    @property
    def folder(self) -> str:
        """The name as that of a file or folder."""
        return "_".join("".join(c if c.isalnum() else " " for c in self.name).split())


@dataclass(frozen=True, slots=True)
class Results:
    """One run. `left` are the cases for which there was no time."""

    about: About
    measured: tuple[Measured, ...]
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waits:
    """What one run of `benchmarks.cold` found."""

    about: About
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what was found, None where nothing was measured."""

    goal: Goal
    value: float | None

    @property
    def text(self) -> str:
        """Met, missed or not measured."""
        if self.value is None:
            return "not measured"
        more = self.goal.figure.endswith("TFLOP/s")
        met = self.value >= self.goal.bound if more else self.value <= self.goal.bound
        return "met" if met else "missed"


def about(device: str) -> About:
    """This machine, now."""
    cuda = device == "cuda"
    return About(
        machine=torch.cuda.get_device_name() if cuda else _cpu(),
        device=device,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        triton=triton.__version__,
        commit=_git("rev-parse", "--short=12", "HEAD"),
        clean=_git("status", "--porcelain") == "",
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        load=round(os.getloadavg()[0], 2),
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def write(results: Results | Waits, folder: Path = FOLDER) -> Path:
    """Keep the results of a run in the folder of its machine."""
    about = results.about
    date = "".join(c if c.isalnum() else "-" for c in about.date)
    part = "cold" if isinstance(results, Waits) else ""
    file = folder / about.folder / part / f"{date}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(results), indent=1) + "\n")
    return file


def read(file: Path) -> Results:
    """Results that `write` has written."""
    found: Results = _made(Results, json.loads(file.read_text()))
    return found


def latest(folder: Path = FOLDER) -> tuple[Results, ...]:
    """The last run on every machine, GPUs first."""
    machines = sorted({file.parent for file in folder.glob("*/*.json")} - {folder / "static"})
    found = [read(max(machine.glob("*.json"))) for machine in machines]
    return tuple(sorted(found, key=lambda r: (r.about.device != "cuda", r.about.machine)))


def waits(folder: Path = FOLDER) -> tuple[Waits, ...]:
    """The last run of `benchmarks.cold` on every machine."""
    files = (max(machine.glob("*.json")) for machine in sorted(folder.glob("*/cold")))
    return tuple(_made(Waits, json.loads(file.read_text())) for file in files)


def _made(kind: Any, value: Any) -> Any:
    """A value of the type `kind` from what JSON has of it."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: _made(hints[f.name], value[f.name]) for f in fields(kind)})
    if typing.get_origin(kind) is tuple:
        return tuple(_made(typing.get_args(kind)[0], one) for one in value)
    if typing.get_origin(kind) is types.UnionType:
        (inner,) = (one for one in typing.get_args(kind) if one is not type(None))
        return None if value is None else _made(inner, value)
    return value


def judge(goals: Sequence[Goal], results: Sequence[Results]) -> tuple[Verdict, ...]:
    """Every goal beside the worst figure of all that it speaks of."""
    measured = [one for run in results for one in run.measured]
    return tuple(Verdict(goal, _worst(goal, measured)) for goal in goals)


def _worst(goal: Goal, measured: Sequence[Measured]) -> float | None:
    of = [one for one in measured if _speaks_of(goal, one)]
    if goal.figure == "ratio":
        rows = [one.row(goal.against) for one in of]
        return max((row.ratio.median for row in rows if row and row.ratio), default=None)
    if goal.figure == "memory slope":
        return slope([(one.columns, row.bytes) for one in of if (row := one.row(OURS))])
    if goal.figure == "TFLOP/s":
        rates = [one.tflops(row) for one in of if (row := one.row(OURS))]
    else:
        rates = [_backward(one, measured) for one in of]
    return min((rate for rate in rates if rate is not None), default=None)


def _speaks_of(goal: Goal, one: Measured) -> bool:
    return (
        (one.device, one.phase) == (goal.device, goal.phase)
        and goal.case in ("", one.case)
        and goal.channels in (None, one.channels)
        and one.columns >= goal.length
        and goal.dtype in ("", one.dtype)
        and one.rows > 1
    )


def slope(points: Sequence[tuple[int, int | None]]) -> float | None:
    """Slope of the line nearest to log(bytes) over log(length); None for fewer than three."""
    logs = {math.log(n): math.log(size) for n, size in points if size}
    if len(logs) < 3:
        return None
    x, y = (sum(values) / len(logs) for values in (logs, logs.values()))
    return sum((a - x) * (b - y) for a, b in logs.items()) / sum((a - x) ** 2 for a in logs)


def _backward(both: Measured, measured: Sequence[Measured]) -> float | None:
    """TFLOP/s of the backward pass alone, 2.5 times the operations of the forward pass."""
    assert both.phase == BOTH
    size = (both.case, both.batch, both.heads, both.rows, both.columns, both.channels, both.dtype)
    for one in measured:
        key = (one.case, one.batch, one.heads, one.rows, one.columns, one.channels, one.dtype)
        if one.phase != FORWARD or key != size:
            continue
        forward, whole = one.row(OURS), both.row(OURS)
        if not (forward and whole and forward.milliseconds and whole.milliseconds and both.pairs):
            continue
        alone = whole.milliseconds.median - forward.milliseconds.median
        return 2.5 * 4 * both.channels * both.pairs / alone / 1e9 if alone > 0 else None
    return None
