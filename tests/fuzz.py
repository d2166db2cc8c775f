"""Random specs through the kernels, held against the reference.

    python -m tests.fuzz --backend cpu --first 1234 --count 1
    python -m tests.fuzz --backend cpu --library alibi

runs one of them again. Specs and cases follow from the seed alone, those of a library spec from
its name. Each is named on stderr before it runs, so that a crash tells which it was.
"""

from __future__ import annotations

import argparse
import re
import sys
import traceback
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from tests.generator import generate

import attnspec
from attnspec.runtime.api import Attention
from attnspec.runtime.blocked import limited
from attnspec.runtime.verify_case import FILLS, LAYOUTS, Case
from attnspec.runtime.verify_rule import Impossible, hold

_LENGTHS = {
    "cpu": (1, 2, 5, 31, 32, 33, 64, 65, 127, 128, 129, 150),
    "native": (1, 2, 15, 16, 17, 95, 96, 97, 150, 255, 256, 257, 300),
    "triton": (1, 5, 31, 32, 33, 40, 64, 65),
}
_SIDES = {
    "cpu": (1, 2, 3, 5, 8, 11),
    "native": (1, 2, 5, 8, 17),
    "triton": (1, 2, 3, 4, 6),
}  # of a grid
LARGEST = 200  # grid of three sides, in tokens
# What has no kernel yet is held as it then runs: in blocks.
_OF_HEADS = "over heads: a tile has the scores of one head"
_OPS = ("softmax", "entmax", "logsumexp", "amax", "amin")
UNCOVERED = {f"a pairwise {op} {_OF_HEADS}" for op in _OPS}
_CHANNELS = (1, 2, 3, 4, 8, 16, 17, 20, 33)
_DTYPES = {
    "cpu": ("float32", "float16", "bfloat16", "float64"),
    "native": ("float32",),
    "triton": ("float32", "float16"),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What one spec gave: cases held, the largest error over what is allowed, and what is wrong."""

    name: str
    cases: int
    largest: float
    problem: str


def random_case(rng: Random, backend: str, seed: int) -> Case:
    """Sizes around the edges of tiles; half of the cases plain, the others extreme."""
    heads, group = rng.choice((1, 1, 2)), rng.choice((1, 1, 2, 3))
    rows = rng.choice(_LENGTHS[backend])
    columns = rows if rng.random() < 0.5 else rng.choice(_LENGTHS[backend])
    channels = rng.choice(_CHANNELS)
    k_start = rng.choice((0, 0, 7, 40))
    frames, height, width = (rng.choice(_SIDES[backend]) for _ in range(3))
    return Case(
        sizes=(
            ("b", rng.choice((1, 2))),
            ("h", heads * group),
            ("heads", heads),
            ("value_heads", rng.choice((heads, heads, 1, heads * group))),
            ("i", rows),
            ("j", columns),
            ("d", channels),
            ("e", channels if rng.random() < 0.5 else rng.choice(_CHANNELS)),
            ("i.f", min(frames, LARGEST // (height * width))),
            ("i.y", height),
            ("i.x", width),
        ),
        q_start=rng.choice((k_start, k_start, 0, k_start + columns - 1)),
        k_start=k_start,
        dtype=rng.choice(("float32", *_DTYPES[backend])),
        layout=rng.choice(("contiguous", *LAYOUTS)),
        fill="normal" if rng.random() < 0.6 else rng.choice(FILLS),
        seed=seed,
    )


def of_heads(case: Case, heads: int) -> Case:
    """The case with so many heads, each with a key head of its own."""
    several = {"h": heads, "heads": heads, "value_heads": heads}
    return replace(case, sizes=tuple((n, several.get(n, size)) for n, size in case.sizes))


def run(seed: int, backend: str, cases: int) -> Result:
    """One spec of the generator in some cases."""
    text = generate(seed)
    try:
        attention = attnspec.compile(text)
    except attnspec.AttnError as error:
        empty = [d.code for d in error.diagnostics] == ["A203"]  # a mask without a pair
        return Result(f"seed {seed}", 0, 0.0, "" if empty else f"{error}\n{text}")
    return _held(f"seed {seed}", attention, seed, backend, cases)


def run_library(name: str, backend: str, cases: int) -> Result:
    """One spec of the library in some cases."""
    attention = attnspec.load(name)
    if not attention.plan.passes:  # its kernel is still to be written
        return Result(name, 0, 0.0, "")
    return _held(name, attention, zlib.crc32(name.encode()), backend, cases)


def _held(name: str, attention: Attention, seed: int, backend: str, cases: int) -> Result:
    rng = Random(f"case {seed}")
    held, largest, text = 0, 0.0, attention.spec.text
    run_by = backend
    if not attention.plan.fused:
        why = attention.plan.stages[0].why
        if why not in UNCOVERED:
            return Result(name, 0, 0.0, f"no kernel: {why}\n{text}")
        run_by = "blocked"
    for place in range(cases):
        case = random_case(rng, backend, (1000 * seed + place) % 2**32)
        if required := re.search(r"^require H == (\d+)$", text, re.MULTILINE):
            case = of_heads(case, int(required[1]))
        try:
            with limited(4000):
                outcome = hold(attention, case, run_by)
        except Impossible:
            continue
        except Exception:
            trace = traceback.format_exc(limit=-3)
            return Result(name, held, largest, f"{case}\n{trace}\n{text}")
        held += 1
        largest = max([largest, *outcome.ratios.values()])
        if outcome.problems:
            problems = "\n".join(outcome.problems)
            return Result(name, held, largest, f"{case}\n{problems}\n{text}")
    return Result(name, held, largest, "")


def again(name: str, backend: str, cases: int) -> str:
    """The command that runs one spec again."""
    kind, _, seed = name.partition(" ")
    which = f"--first {seed} --count 1" if kind == "seed" else f"--library {name}"
    command = f"python -m tests.fuzz --backend {backend} {which} --cases {cases}"
    return f"TRITON_INTERPRET=1 {command}" if backend == "triton" else command


def main() -> int:
    """Run specs from the command line; exit 1 when one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("cpu", "native", "triton"), default="cpu")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--library", nargs="+", default=())
    parser.add_argument("--stop", action="store_true", help="at the first that is wrong")
    asked = parser.parse_args()
    results = []
    for result in _each(asked):
        results.append(result)
        if asked.stop and result.problem:
            break
    print(report(results, asked.backend, asked.cases))
    return 1 if any(r.problem for r in results) else 0


def report(results: Sequence[Result], backend: str, cases: int) -> str:
    """What is wrong, how to run it again, and the sum of it all."""
    wrong = [r for r in results if r.problem]
    parts = [f"--- {r.name}: {again(r.name, backend, cases)}\n{r.problem}" for r in wrong]
    used = sum(r.cases > 0 for r in results)
    parts.append(
        f"{used} specs, {sum(r.cases for r in results)} cases on {backend}, {len(wrong)} wrong,"
        f" largest error {max(r.largest for r in results):.2f} of what is allowed"
    )
    return "\n".join(parts)


def _each(asked: argparse.Namespace) -> Iterator[Result]:
    for name in asked.library:
        print(name, file=sys.stderr, flush=True)
        yield run_library(name, asked.backend, asked.cases)
    if asked.library:
        return
    for seed in range(asked.first, asked.first + asked.count):
        print(f"seed {seed}", file=sys.stderr, flush=True)
        yield run(seed, asked.backend, asked.cases)


if __name__ == "__main__":
    sys.exit(main())
