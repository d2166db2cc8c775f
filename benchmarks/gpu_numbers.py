"""The numeric suite with compiled kernels: every fused library spec, every dtype, on a CUDA GPU.

Each spec is called with a few shapes (a length of 1 and odd ones, queries and keys of different
number, fewer key heads, shifted positions, strided tensors), and output, log-sum-exp and every
gradient are held against the float64 reference by the rule of `attnspec verify`. Several
processes compile at once; ends within eight minutes. Run it with `make test-gpu`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

import attnspec
from attnspec.codegen import library
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import Impossible, hold

SECONDS = 420.0
DTYPES = ("bfloat16", "float32", "float16")
NEEDS = """\
no CUDA GPU here: no kernel is run. This needs an NVIDIA GPU of compute capability 8.0 or newer and
a PyTorch built for CUDA (here: torch {}). Without one, `make test` runs the kernels under Triton's
interpreter and `make aot` compiles them."""


def _case(dtype: str, layout: str, start: int, **sizes: int) -> Case:
    return Case(tuple(sizes.items()), start, 0, dtype, layout, "normal", seed=1)


def cases(dtype: str) -> tuple[Case, ...]:
    """Shapes of two head dimensions, so that a spec compiles twice."""
    return (
        _case(dtype, "contiguous", 0, b=2, h=4, heads=2, i=200, j=200, d=64, e=64),
        _case(dtype, "transposed", 76, b=1, h=2, heads=1, i=1, j=77, d=64, e=64),
        _case(dtype, "strided", 128, b=1, h=3, heads=3, i=131, j=259, d=80, e=48),
    )


@dataclass(frozen=True, slots=True)
class Result:
    """One spec in one dtype: calls made, the worst error as a share of what is allowed."""

    spec: str
    dtype: str
    calls: int
    worst: float
    failure: str = ""


def check(name: str, dtype: str, device: str = "cuda") -> Result:
    """Hold the compiled kernels of one spec against the reference."""
    attention = attnspec.load(name)
    calls, worst, failure = 0, 0.0, ""
    for case in cases(dtype):
        try:
            outcome = hold(attention, case, "triton", device)
        except Impossible:
            continue  # the spec requires other sizes than these
        except Exception as error:  # one broken spec must not hide the others
            return Result(name, dtype, calls, worst, f"{case}: {type(error).__name__}: {error}")
        calls += 1
        worst = max(worst, *outcome.ratios.values())
        failure = failure or "; ".join(f"{case}: {problem}" for problem in outcome.problems[:1])
    return Result(name, dtype, calls, worst, failure or ("" if calls else "no call was possible"))


def main() -> None:
    if not torch.cuda.is_available():
        print(NEEDS.format(torch.__version__))
        return
    start = time.monotonic()
    names = [name for name in library.names() if attnspec.load(name).plan.fused]
    tasks = [(name, dtype) for dtype in DTYPES for name in names]
    results: list[Result] = []
    workers = max(1, min(12, (os.cpu_count() or 2) - 2))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        pending = [pool.submit(check, name, dtype) for name, dtype in tasks]
        try:
            for future in as_completed(pending, timeout=SECONDS):
                results.append(future.result())
        except TimeoutError:
            pool.shutdown(wait=False, cancel_futures=True)
    show(results, len(tasks), time.monotonic() - start)
    if not results or any(result.failure for result in results):
        raise SystemExit(1)


def show(results: list[Result], planned: int, seconds: float) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("dtype", "specs", "calls", "worst error / allowed", "failed"):
        table.add_column(title, justify="left" if title == "dtype" else "right")
    for dtype in DTYPES:
        of = [result for result in results if result.dtype == dtype]
        worst = max((result.worst for result in of), default=0.0)
        failed = sum(bool(result.failure) for result in of)
        calls = sum(result.calls for result in of)
        table.add_row(dtype, str(len(of)), str(calls), f"{worst:.2f}", str(failed))
    console = Console(highlight=False)
    console.print(table)
    for result in sorted(results, key=lambda result: (result.spec, result.dtype)):
        if result.failure:
            console.print(f"{result.spec} {result.dtype}: {result.failure[:300]}", markup=False)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    console.print(f"{len(results)} of {planned} done in {seconds:.0f} s on {name}")


if __name__ == "__main__":
    main()
