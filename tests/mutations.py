"""Planted faults: each is put into a copy of the package, and some test must notice.

    python -m tests.mutations docs/mutations.md

runs them all and writes the table of what noticed which; without a file, a few of them and no
table. The copy is thrown away.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutations_list import MUTATIONS, Mutation

ROOT = Path(__file__).parent.parent
_COPIED = ("dsl", "codegen", "templates", "runtime", "specs", "src", "tests", "pyproject.toml")
_PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header")
_SHARED = (
    "click", "filelock", "hypothesis", "jinja2", "lark", "numpy", "platformdirs", "pytest", "rich",
    "sympy", "torch", "torch._dynamo", "triton", "triton.language", "triton.runtime.interpreter",
)  # fmt: skip
SECONDS = 600
FEW = (
    "templates/forward.py.jinja", "templates/backward_rows.py.jinja",
    "templates/backward_columns.py.jinja", "templates/macros.py.jinja",
    "dsl/analysis/bounds.py", "dsl/analysis/symbolic.py",
)  # fmt: skip
SUITES: dict[str, tuple[str, ...]] = {
    "kernels": ("-m", "tests.runtime.fence", "behind"),
    "walks": ("-m", "tests.runtime.walk"),
    "scores": ("-m", "tests.runtime.scores"),
    "boxes": ("-m", "tests.runtime.boxes"),
    "coordinates": ("-m", "tests.runtime.coordinates"),
    "blocks": (
        *_PYTEST,
        "tests/dsl/test_boxes.py",
        "tests/dsl/test_ascending.py",
        "tests/runtime/test_blocks.py",
    ),
    "bounds": (*_PYTEST, "tests/dsl/test_bounds.py"),
    "facts": (*_PYTEST, "tests/dsl/test_facts.py", "tests/codegen/test_cost.py"),
    "functions": (*_PYTEST, "tests/codegen/test_functions.py"),
    "relations": (*_PYTEST, "tests/runtime/test_metamorphic.py"),
    "lookups": (*_PYTEST, "tests/codegen/test_lookups.py", "tests/codegen/test_by_entry.py"),
    "entmax": (*_PYTEST, "tests/codegen/test_entmax.py"),
    "ranks": (*_PYTEST, "tests/codegen/test_ranks.py"),
    "cuts": (*_PYTEST, "tests/codegen/test_cuts.py"),
    "sweeps": ("-m", "tests.runtime.cuts"),
    "running": (*_PYTEST, "tests/codegen/test_running.py"),
    "few": ("-m", "tests.runtime.few"),
    "descriptors": ("-m", "tests.runtime.descriptors"),
    "boxed": (*_PYTEST, "tests/runtime/test_descriptors.py", "-k", "not load_what"),
    "packed": ("-m", "tests.runtime.packed"),
    "native": (*_PYTEST, "tests/runtime/test_native.py"),
    "distances": (*_PYTEST, "tests/codegen/test_distances.py"),
    "peers": (*_PYTEST, "tests/runtime/test_peers.py"),
    "mixtures": (*_PYTEST, "tests/codegen/test_mixtures.py"),
    "parts": (*_PYTEST, "tests/codegen/test_blocks.py"),
    "turned": (*_PYTEST, "tests/codegen/test_turned.py"),
    "channels": (*_PYTEST, "tests/codegen/test_channels.py"),
    "kept": (*_PYTEST, "tests/runtime/test_kept.py"),
    "blocked": (*_PYTEST, "tests/runtime/test_blocked.py", "-k", "not library"),
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
        root = _copy(Path(folder))
        apply(mutation, root)
        killers = (_killer(suite, root) for suite in mutation.suites)
        return Verdict(mutation, next((k for k in killers if k), ""))


def sound(suites: Iterable[str]) -> str:
    """What a suite says of the package as it is: nothing, or no verdict means anything."""
    with tempfile.TemporaryDirectory() as folder:
        root = _copy(Path(folder))
        return next((k for suite in suites if (k := _killer(suite, root))), "")


def few() -> list[Mutation]:
    """The first mutation of each of `FEW`, for a quick run."""
    return [next(m for m in MUTATIONS if m.file == file) for file in FEW]


def _copy(root: Path) -> Path:
    for name in _COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, symlinks=True)
        else:
            shutil.copy(ROOT / name, root / name)
    return root


def _killer(suite: str, root: Path) -> str:
    """What noticed, as the suite tells it; empty when nothing did."""
    code, out, err = _forked(SUITES[suite], root)
    if not code:
        return ""
    for line in out.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line.split(" ", 1)[1].split(" - ")[0]
    at = [line for line in err.splitlines() if line.startswith("seed ") or ": b=" in line]
    where = at[-1].split(": b=")[0] if at else "the start"
    how = {-signal.SIGSEGV: " (the fence)", -signal.SIGKILL: " (no end)"}.get(code, "")
    return f"{suite}: {where}{how}"


def _forked(command: Sequence[str], root: Path) -> tuple[int, str, str]:
    """Run `-m module arguments` on the copy in a fork of this process, which has everything but
    the package itself imported already: exit status, stdout and stderr."""
    with (root / "out").open("w+") as out, (root / "err").open("w+") as err:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(_inside(command[1], command[2:], root))
        code = _waited(child)
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


def _waited(child: int) -> int:
    until = time.monotonic() + SECONDS
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)


def _inside(module: str, arguments: Sequence[str], root: Path) -> int:
    """In the fork: the module's exit status."""
    os.chdir(root)
    os.environ["ATTNSPEC_CACHE"] = str(root / "cache")
    os.environ["TRITON_INTERPRET"] = "0" if module == "pytest" else "1"  # as in `make test`
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(root / "src"), str(root)]
    for name in [n for n in sys.modules if n.split(".")[0] in ("attnspec", "tests")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as done:
        code = int(done.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


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


def warm() -> None:
    """Import what every suite imports, for the forks to share; its kernels are interpreted."""
    os.environ |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    for name in _SHARED:
        importlib.import_module(name)


def main() -> int:
    """Judge every mutation, two at a time; exit 1 when one survives unexplained."""
    chosen = MUTATIONS if len(sys.argv) > 1 else few()
    warm()
    found = sound(SUITES) if len(sys.argv) > 1 else ""  # else they run beside this as they are
    if found:
        print(f"without any mutation: {found}")
        return 1
    verdicts = []
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for verdict in pool.imap(judge, chosen):
            verdicts.append(verdict)
            print(f"{verdict.mutation.file}: {_cell(verdict.mutation.new)[:60]}", end=" ")
            print("->", verdict.killer or "nothing", flush=True)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(table(verdicts), encoding="utf-8")
    return int(any(not v.killer and not v.mutation.equivalent for v in verdicts))


if __name__ == "__main__":
    sys.exit(main())
