"""Planted faults: each is put into a copy of the package, and some test must notice.

    python -m tests.mutations docs/mutations.md

runs them all and writes the table of what noticed which. The copy is thrown away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutations_list import MUTATIONS, Mutation

ROOT = Path(__file__).parent.parent
_COPIED = ("dsl", "codegen", "templates", "runtime", "specs", "src", "tests", "pyproject.toml")
_PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header")
SUITES: dict[str, tuple[str, ...]] = {
    "kernels": ("-m", "tests.runtime.fence", "behind"),
    "bounds": (*_PYTEST, "tests/codegen/test_bounds.py"),
    "functions": (*_PYTEST, "tests/codegen/test_functions.py"),
    "relations": (*_PYTEST, "tests/runtime/test_metamorphic.py"),
    "regressions": (*_PYTEST, "tests/codegen/test_regressions.py"),
    "fuzz": ("-m", "tests.fuzz", "--first", "0", "--count", "75", "--cases", "1", "--stop"),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What noticed a mutation; empty when nothing did."""

    mutation: Mutation
    killer: str


def apply(mutation: Mutation, root: Path) -> None:
    """Put the fault into the package under `root`; its text must stand there exactly once."""
    path = root / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.file}: {text.count(mutation.old)} times {mutation.old!r}")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def judge(mutation: Mutation) -> Verdict:
    """Run a mutation's suites until one notices it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in _COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name, symlinks=True)
            else:
                shutil.copy(ROOT / name, root / name)
        apply(mutation, root)
        for suite in mutation.suites:
            killer = _killer(suite, root)
            if killer:
                return Verdict(mutation, killer)
    return Verdict(mutation, "")


def _killer(suite: str, root: Path) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(root / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "ATTNSPEC_CACHE": str(root / "cache"),
        "TRITON_INTERPRET": "1" if suite == "kernels" else "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *SUITES[suite]]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=600
        )
    except subprocess.TimeoutExpired:
        return f"{suite}: no end"
    if not done.returncode:
        return ""
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line.split(" ", 1)[1].split(" - ")[0]
    at = [
        line for line in done.stderr.splitlines() if line.startswith(("seed ",)) or ": b=" in line
    ]
    where = at[-1].split(": b=")[0] if at else "the start"
    how = " (ended by the fence)" if done.returncode < 0 else ""
    return f"{suite}: {where}{how}"


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a page."""
    killed = sum(bool(v.killer) for v in verdicts)
    equivalent = sum(bool(v.mutation.equivalent) and not v.killer for v in verdicts)
    lines = [
        "# Mutations",
        "",
        "Made by `make mutations`. Each row is a fault that was planted in a copy of the package,",
        "and the test or spec that noticed it first.",
        "",
        f"{len(verdicts)} mutations, {killed} killed, {equivalent} equivalent,"
        f" {len(verdicts) - killed - equivalent} survived.",
        "",
        "| file | planted | killed by |",
        "| --- | --- | --- |",
    ]
    for verdict in verdicts:
        mutation = verdict.mutation
        change = f"`{_cell(mutation.old)}` → `{_cell(mutation.new) or ' '}`"
        told = verdict.killer or (
            f"equivalent: {mutation.equivalent}" if mutation.equivalent else "**survived**"
        )
        lines.append(f"| {mutation.file} | {change} | {_cell(told)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Judge every mutation, two at a time; exit 1 when one survives unexplained."""
    with ThreadPoolExecutor(2) as pool:
        verdicts = []
        for verdict in pool.map(judge, MUTATIONS):
            verdicts.append(verdict)
            print(verdict.mutation.file, _cell(verdict.mutation.new)[:60], "->", verdict.killer)
    Path(sys.argv[1]).write_text(table(verdicts), encoding="utf-8")
    return int(any(not v.killer and not v.mutation.equivalent for v in verdicts))


if __name__ == "__main__":
    sys.exit(main())
