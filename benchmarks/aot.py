"""What every kernel of the library takes, compiled without a GPU.

Compiles the kernels of every pass of each fused spec in bfloat16 at head dimensions 64 and 128 for
cuda:90 and cuda:80 (kernels of equal code and tiles once), writes
benchmarks/results/static/library.json and prints a line for each target and for each kernel whose
operands no tile holds. Exits with 1 where a kernel spills or does not fit. Run it with `make aot`.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

import attnspec
from attnspec.codegen import library
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime import aot
from attnspec.runtime.tiles import SHARED

RESULT = Path(__file__).parent / "results" / "static" / "library.json"
TARGETS, HEAD_DIMS, DTYPE = ("cuda:90", "cuda:80"), (64, 128), "bf16"


# The place of a pass and a kernel of it.
Part: TypeAlias = tuple[int, str]


def parts(name: str) -> list[tuple[str, Part]]:
    """What tells each kernel of a fused spec from others, its code and what its tile goes by, and
    which it is."""
    attention = attnspec.load(name)
    if not attention.source:
        return []
    return [
        (f"{plan.loads} {plan.counts}\n{code(kernels[kernel].function)}", (place, kernel))
        for place, (plan, kernels) in enumerate(attention._generated.PASSES)
        for kernel in kernels
    ]


def code(function: Callable[..., None]) -> str:
    """The text of a function without its name and comments."""
    parsed = ast.parse(inspect.getsource(function))
    for node in parsed.body:
        if isinstance(node, ast.FunctionDef):
            node.name = "kernel"
    return ast.unparse(parsed)


def compile_kernels(name: str, found: Sequence[Part], target: str) -> list[aot.Built]:
    """Some kernels of one spec for one target, at every head dimension."""
    attention = attnspec.load(name)
    module = attention._generated
    built = []
    for head_dim in HEAD_DIMS:
        for place, kernel in found:
            call = aot.record(attention.spec, module, DTYPE, head_dim, place)
            work = (attention.spec, module, kernel, call, target, DTYPE, head_dim)
            try:
                built.append(aot.build_kernel(*work)[0])
            except AttnError as error:
                print(f"{name}.{kernel} at {head_dim}: {error}", flush=True)
    return built


def unique(names: Sequence[str], pool: Executor) -> Iterator[tuple[str, list[Part]]]:
    """The first spec with each kernel: most specs share some of theirs."""
    seen: set[str] = set()
    for name, found in zip(names, pool.map(parts, names), strict=True):
        fresh = {text: part for text, part in reversed(found) if text not in seen}
        seen |= fresh.keys()
        if fresh:
            yield name, [*reversed(fresh.values())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("specs", nargs="*", help="Library specs; default: all of them.")
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--target", action="append", choices=TARGETS, help="Default: both.")
    options = parser.parse_args()
    start = time.monotonic()
    names = options.specs or list(library.names())
    built: list[aot.Built] = []
    with ProcessPoolExecutor(options.processes) as pool:
        targets = options.target or TARGETS
        work = [(*kernels, target) for kernels in unique(names, pool) for target in targets]
        for found in pool.map(compile_kernels, *zip(*work, strict=True)):
            built += found
            write(options.output, built)
    print(f"{len(built)} kernels of {len(names)} specs in {time.monotonic() - start:.0f} s")
    if not show(built):
        raise SystemExit(1)


def write(path: Path, built: list[aot.Built]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(built, key=lambda b: (b.target, b.head_dim, b.spec, b.kernel))
    lines = ",\n".join(json.dumps(asdict(b)) for b in ordered)
    path.write_text(f"[\n{lines}\n]\n")


def show(built: list[aot.Built]) -> bool:
    """A line for each target and head dimension; whether all is well."""
    good = True
    row = "{:<8} {:>4} {:>8} {:>8} {:>14} {:>11} {:>14}".format
    print(
        row(
            "target", "dim", "kernels", "spilling", "most registers", "most shared", "without wgmma"
        )
    )
    for target in dict.fromkeys(b.target for b in built):
        for head_dim in HEAD_DIMS:
            of = [b for b in built if (b.target, b.head_dim) == (target, head_dim)]
            spilling = [b for b in of if b.spills]
            too_large = [b for b in of if b.shared > SHARED[target]]
            registers, shared = max(b.registers for b in of), max(b.shared for b in of)
            slow = sum(b.wgmma == 0 for b in of) if target == "cuda:90" else "-"
            print(row(target, head_dim, len(of), len(spilling), registers, shared, slow))
            for b in [*spilling, *too_large]:
                print(f"  {b.stem}: {b.spills} spills, {b.shared} bytes")
            good = good and not spilling and not too_large
    return good


if __name__ == "__main__":
    main()
