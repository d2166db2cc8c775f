"""How long users wait before the first result, and what the host does for every call.

- `import`: importing attnspec, which imports nothing heavy until it is used.
- `first`: from the first spec's text to its first result on the CPU, nothing in the cache.
- `new`: from another spec's text, the cache having the grammar's tables and the templates that
  one spec (`causal`) has used.
- `cached`: the same, the module being in the cache.
- `build`, `build again`: `attnspec build --all` into a new directory with a new cache, and again.
- `call`, `call with gradients`: a call whose kernels do nothing, in microseconds; on the CPU
  without its loop over tiles, and as a launch of Triton kernels that are not launched.
- `stage`: what of that every stage takes, for `documents`, with gradients (see `stages`).
- `recording`: what PyTorch takes of a call with gradients, an autograd function that does nothing
  with as many tensors.

Time is that of the process, without importing torch: every measurement is a fork of a process that
has imported torch and nothing of attnspec. Run it as `python -m benchmarks.cold`, with `--every`
for the first results of all specs of the library (minutes), with `-o benchmarks/results` to keep
them for docs/speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from benchmarks.stages import STAGES, by_stage
from torch import Tensor

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
RUNS = 7
GOALS: dict[str, float | None] = {
    "import": 0.05,
    "first": 2.0,
    "new": 2.0,
    "cached": 0.15,
    "build": 180.0,
    "build again": 2.0,
    "call": 60e-6,
    "call with gradients": 60e-6,
    "recording": None,
    "stage": None,
}
CALLED = ("causal", "alibi", "documents", "softcap", "sink")
STAGED = "documents"


@dataclass(frozen=True, slots=True)
class Figure:
    """The median and the least of some `runs`, in seconds."""

    what: str
    of: str
    median: float
    least: float
    runs: int

    @property
    def goal(self) -> float | None:
        """What the median should not exceed, in seconds, where that is asked for."""
        return GOALS[self.what]

    @property
    def text(self) -> str:
        """Met or missed."""
        return "" if self.goal is None else "met" if self.median <= self.goal else "missed"


def figure(what: str, of: str, times: list[float]) -> Figure:
    """What was measured, of which thing, several times."""
    return Figure(what, of, statistics.median(times), min(times), len(times))


def forked(work: Callable[[], list[float]], cache: Path) -> list[float]:
    """What `work` gives in a process of its own, whose cache is `cache`; fails if it does."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.environ["ATTNSPEC_CACHE"] = str(cache)
        try:
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    if not data:
        raise RuntimeError("a measurement failed: see above")
    found: list[float] = json.loads(data)
    return found


def arguments(attention: Any) -> dict[str, Any]:
    """Small arguments of a call."""
    from attnspec.dsl.diagnostics import AttnError
    from attnspec.runtime.typical import typical

    for length in (64, 16, 8, 4, 1):  # a spec may ask for short ones
        try:
            given = typical(attention.spec, heads=2, length=length, channels=16)
            attention.bind(**given)
        except AttnError:
            continue
        return given
    raise ValueError(f"no arguments for {attention.spec.name}")


def imported() -> list[float]:
    """Importing the package."""
    start = time.process_time()
    import attnspec  # noqa: F401

    return [time.process_time() - start]


def first(name: str) -> list[float]:
    """From the text of a library's spec to its first result."""
    text = (SOURCE / "attnspec" / "specs" / f"{name}.attn").read_text()
    start = time.process_time()
    import attnspec

    attention = attnspec.compile(text)
    loaded = time.process_time() - start
    given = arguments(attention)
    start = time.process_time()
    attention(**given, extras=True)
    return [loaded + time.process_time() - start]


def once(name: str, cache: Path) -> float:
    """The seconds to a spec's first result in a process of its own."""
    return forked(partial(first, name), cache)[0]


def used(cache: Path, folder: Path) -> Path:
    """A copy of a cache without its modules."""
    shutil.copytree(cache, folder, ignore=shutil.ignore_patterns("modules"))
    return folder


def empty(name: str, triton: bool, gradients: bool) -> Callable[[], object]:
    """A call whose kernels do nothing, once for all in this process."""
    import attnspec
    from attnspec.runtime import cpu, launch

    attention = attnspec.load(name)
    given = arguments(attention)
    given["q"].requires_grad_(gradients)
    backend = "triton" if triton else "cpu"
    nothing: list[Any] = []
    if triton:
        for _, kernels in attention._generated.PASSES:
            for kernel in kernels.values():
                kernel.jit = _NotLaunched()
    else:
        whole = cpu.forward

        def forward(call: Any) -> Any:
            if not nothing:
                nothing.append(whole(call))
            return tuple([torch.empty_like(x) for x in nothing[0]])

        launch.cpu.forward = forward  # type: ignore[attr-defined]

    torch.set_grad_enabled(gradients)
    return lambda: attention(**given, backend=backend)


def called(name: str, triton: bool, gradients: bool) -> list[float]:
    """Calls whose kernels do nothing, each the mean of a hundred."""
    return repeated(empty(name, triton, gradients))


def staged(name: str, triton: bool) -> list[float]:
    """The median of every stage of such calls with gradients, in the order of `STAGES`."""
    import attnspec

    call = empty(name, triton, gradients=True)
    found = by_stage(call, attnspec.load(name)._generated)
    return [statistics.median(times) for times in found.values()]


def repeated(call: Callable[[], object]) -> list[float]:
    """Seconds of a call, each the mean of a hundred, after a hundred others."""

    def many() -> float:
        start = time.process_time()
        for _ in range(100):
            call()
        return (time.process_time() - start) / 100

    many()
    return [many() for _ in range(30)]


def recorded(name: str) -> list[float]:
    """Calls of an autograd function that does nothing with as many tensors as a spec's pass."""
    import attnspec

    plan, _ = attnspec.load(name)._generated.PASSES[-1]
    given = [torch.zeros(2).requires_grad_(n == 0) for n, _ in enumerate(plan.names)]
    outputs = torch.zeros(2), torch.zeros(2)

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
            made = tuple(x.detach() for x in outputs)
            ctx.save_for_backward(*inputs, *made)
            return made

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            raise NotImplementedError

    return repeated(lambda: Nothing.apply(*given))  # type: ignore[no-untyped-call]


class _NotLaunched:
    """A Triton kernel that does nothing."""

    def __getitem__(self, grid: tuple[int, int]) -> Callable[..., None]:
        return lambda *args, **options: None


def built(folder: Path) -> tuple[float, float]:
    """The library, built twice: seconds of the processors."""
    environment = {**os.environ, "ATTNSPEC_CACHE": str(folder / "cache"), "PYTHONPATH": str(SOURCE)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "attnspec.codegen.cli", "build", "--all"]
    command += ["-o", str(folder / "out")]
    times = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=environment, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return times[0], times[1]


def measured(every: bool, folder: Path) -> list[Figure]:
    """All figures; of all specs where `every` is set."""
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(folder / "bytecode")
    warm = folder / "warm"
    once("causal", warm)  # writes the bytecode
    found = [
        figure("import", "attnspec", [forked(imported, warm)[0] for _ in range(RUNS)]),
        figure("first", "causal", [once("causal", folder / f"first {n}") for n in range(RUNS)]),
        figure("new", "causal", [once("causal", used(warm, folder / f"{n}")) for n in range(RUNS)]),
        figure("cached", "causal", [once("causal", warm) for _ in range(RUNS)]),
    ]
    later = used(warm, folder / "every")
    names = sorted(path.stem for path in (SOURCE / "attnspec" / "specs").glob("*.attn"))
    for name in names if every else names[::16]:
        for what in ("new", "cached"):
            found.append(figure(what, name, [once(name, later)]))
    for name, triton, gradients in product(CALLED, (False, True), (False, True)):
        os.environ["TRITON_INTERPRET"] = str(int(triton))
        times = forked(partial(called, name, triton, gradients), warm)
        what = "call with gradients" if gradients else "call"
        found.append(figure(what, f"{name}, {'triton' if triton else 'cpu'}", times))
    for triton in (False, True):
        os.environ["TRITON_INTERPRET"] = str(int(triton))
        times = forked(partial(staged, STAGED, triton), warm)
        for stage, time_of in zip(STAGES.values(), times, strict=True):
            of = f"{STAGED}, {'triton' if triton else 'cpu'}: {stage}"
            found.append(figure("stage", of, [time_of]))
    del os.environ["TRITON_INTERPRET"]
    for name in CALLED:
        found.append(figure("recording", name, forked(partial(recorded, name), warm)))
    one, again = built(folder)
    return [*found, figure("build", "library", [one]), figure("build again", "library", [again])]


def slowest(figures: Sequence[Figure], most: int = 10) -> Iterator[tuple[str, list[Figure]]]:
    """Of everything that is measured the slowest, and every stage of a call."""
    for what in GOALS:
        those = sorted((f for f in figures if f.what == what), key=lambda f: -f.median)
        yield what, those if what == "stage" else those[:most]


def main() -> None:
    """Measure, print what is slow or missed, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="Keep results there.")
    parser.add_argument("--every", action="store_true", help="First results of every spec.")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measured(given.every, Path(folder))
    for what, those in slowest(found):
        print(what)
        for f in those:
            print(f"  {f.of}: median {f.median:.3g} s, least {f.least:.3g} s of {f.runs} {f.text}")
    if given.output is not None:
        from benchmarks import results  # imports attnspec

        about = replace(results.about("cpu"), load=round(load, 2))
        print(f"{results.write(results.Waits(about, tuple(found)), given.output)} written")


if __name__ == "__main__":
    main()
