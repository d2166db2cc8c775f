"""What every kernel of the library takes, compiled without a GPU.

Compiles each fused spec's kernels in bfloat16 at head dimensions 64 and 128 for cuda:90 and
cuda:80 (kernels of equal source once), writes benchmarks/results/static/library.json and prints a
line for each target. Exits with 1 where a kernel spills or does not fit. Run it with `make aot`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import attnspec
from attnspec.codegen import library
from attnspec.runtime import aot
from attnspec.runtime.tiles import SHARED

RESULT = Path(__file__).parent / "results" / "static" / "library.json"
TARGETS, HEAD_DIMS, DTYPE = ("cuda:90", "cuda:80"), (64, 128), "bf16"


def sources(name: str) -> list[tuple[str, str, str]]:
    """(spec, kernel, source) of every kernel of a fused spec."""
    attention = attnspec.load(name)
    if not attention.source:
        return []
    kernels = attention._generated.KERNELS
    return [(name, kernel, kernels[kernel].src) for kernel in kernels]


def compile_kernels(name: str, kernels: tuple[str, ...], target: str) -> list[aot.Built]:
    """Some kernels of one spec for one target, at every head dimension."""
    attention = attnspec.load(name)
    module = attention._generated
    found = []
    for head_dim in HEAD_DIMS:
        call = aot.record(attention.spec, module, DTYPE, head_dim)
        for kernel in kernels:
            work = (attention.spec, module, kernel, call, target, DTYPE, head_dim)
            found.append(aot.build_kernel(*work)[0])
    return found


def unique(names: list[str], pool: ProcessPoolExecutor) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The first spec with each kernel: most specs share some of theirs."""
    seen: set[str] = set()
    for found in pool.map(sources, names):
        fresh = [(spec, kernel, source) for spec, kernel, source in found if source not in seen]
        seen |= {source for _, _, source in fresh}
        if fresh:
            yield fresh[0][0], tuple(kernel for _, kernel, _ in fresh)


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
