"""Random cases of a spec's kernels against its reference, by Hypothesis."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import torch
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from attnspec.runtime.kernel import interpreted
from attnspec.runtime.launch import backend_for
from attnspec.runtime.verify_case import FILLS, LAYOUTS, Case
from attnspec.runtime.verify_rule import Impossible, Outcome, hold

if TYPE_CHECKING:
    from attnspec.runtime.api import Attention

SHRINK_SECONDS = 60.0
# around the edges of tiles; the interpreter has its own, and is slow
_EDGES = {
    "cpu": (31, 32, 33, 63, 64, 65, 127, 128, 129, 257),
    "blocked": (15, 16, 17),
    "native": (15, 16, 17, 95, 96, 97, 191, 192, 193, 255, 256, 257, 271, 300),
    "triton": (31, 32, 33, 63, 64, 65),
}
_CHANNELS = (2, 4, 1, 3, 8, 16, 17, 5, 32, 24, 33, 64, 7)
_DTYPES = {
    "cpu": ("float32", "float16", "bfloat16"),
    "blocked": ("float32", "float64"),
    "native": ("float32",),
    "interpreter": ("float32", "float16"),
    "triton": ("float32", "float16", "bfloat16"),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found. `worst` is the largest error over what is allowed, by result."""

    name: str
    backend: str
    cases: int
    skipped: int
    worst: dict[str, float]
    failure: str
    again: str

    @property
    def ok(self) -> bool:
        """Whether every case held."""
        return not self.failure

    @property
    def largest(self) -> float:
        """The largest error over what is allowed; at most 1 where everything held."""
        return max(self.worst.values(), default=0.0)

    def __str__(self) -> str:
        if self.backend == "dense":  # that is the reference
            return f"{self.name}: no kernel yet, nothing to hold against the reference"
        head = f"{self.name}: {self.cases} cases on {self.backend}"
        if self.skipped:
            head += f" ({self.skipped} more had no arguments)"
        if not self.failure:
            name = max(self.worst, key=lambda n: self.worst[n], default="")
            return f"{head}: ok, largest error {self.largest:.2f} of what is allowed ({name})"
        return f"{head}: FAILED\n{self.failure}\n  run again: {self.again}"


class Mismatch(Exception):
    """A case that does not hold."""


class _Enough(BaseException):
    """Shrinking has taken long enough."""


def _cases(backend: str, dtypes: Sequence[str]) -> st.SearchStrategy[Case]:
    """Cases for "cpu", "native", "triton" or "blocked", the simplest first."""
    allowed = dtypes or _DTYPES["interpreter" if backend == "triton" and interpreted() else backend]
    length = st.one_of(st.integers(1, 9), st.sampled_from(_EDGES[backend]), st.integers(1, 70))
    offset = st.one_of(st.just(0), st.integers(0, 9), st.integers(0, 200))
    few = st.integers(1, 3)
    plain = st.just("normal"), st.just("contiguous")

    @st.composite
    def draw_case(draw: st.DrawFn) -> Case:
        heads, group = draw(few), draw(few)
        rows = draw(length)
        columns = draw(st.one_of(st.just(rows), length))
        k_start = draw(offset)
        q_start = draw(st.one_of(st.just(k_start), offset, st.just(k_start + columns - 1)))
        d = draw(st.sampled_from(_CHANNELS))
        sizes = {
            "b": draw(few),
            "h": heads * group,
            "heads": heads,
            "i": rows,
            "j": columns,
            "d": d,
            "e": draw(st.one_of(st.just(d), st.sampled_from(_CHANNELS))),
        }
        return Case(
            sizes=tuple(sizes.items()),
            q_start=q_start,
            k_start=k_start,
            dtype=draw(st.sampled_from(allowed)),
            layout=draw(st.one_of(plain[1], st.sampled_from(LAYOUTS))),
            fill=draw(st.one_of(plain[0], st.sampled_from(FILLS))),
            seed=draw(st.integers(0, 2**31)),
        )

    return draw_case()


def verify(
    spec: Attention | str | Path,
    *,
    cases: int = 50,
    seed: int | None = None,
    backend: str | None = None,
    dtypes: Sequence[str] = (),
) -> Report:
    """Hold output, log-sum-exp, returns and every gradient of a spec against the reference.

    `spec` is a compiled spec, a path or a library name. What fails is made small; the report
    tells how to run it again. The same `seed` gives the same cases (None: a fresh one).
    """
    from attnspec.runtime.api import Attention, load

    attention = spec if isinstance(spec, Attention) else load(spec)
    seed = secrets.randbelow(2**31) if seed is None else seed
    if attention.spec.states and not attention.plan.fused:
        return Report(attention.spec.name, "dense", 0, 0, {}, "", "")
    backend = backend if attention.plan.fused else "blocked"
    gpu = backend in (None, "triton") and torch.cuda.is_available() and not interpreted()
    device = torch.device("cuda" if gpu else "cpu")
    chosen = backend if backend == "blocked" else backend_for(backend, device)
    chosen = "cpu" if chosen == "auto" else chosen
    search = _Search(attention, chosen, device)
    search.run(_cases(chosen, dtypes), cases, seed)
    shown = attention.spec.path if isinstance(spec, Attention) else str(spec)
    again = f"attnspec verify {shown} --cases {cases} --seed {seed} --backend {chosen}"
    if os.environ.get("TRITON_INTERPRET"):
        again = f"TRITON_INTERPRET={os.environ['TRITON_INTERPRET']} {again}"
    failure = "" if search.failed is None else _told(*search.failed)
    name = attention.spec.name
    return Report(name, chosen, search.ran, search.skipped, search.worst, failure, again)


class _Search:
    """Runs cases, and keeps the smallest that failed."""

    def __init__(self, attention: Attention, backend: str, device: torch.device) -> None:
        self.attention, self.backend, self.device = attention, backend, device
        self.ran = self.skipped = 0
        self.worst: dict[str, float] = {}
        self.failed: tuple[Case, tuple[str, ...]] | None = None
        self._until = 0.0

    def run(self, strategy: st.SearchStrategy[Case], count: int, seed: int) -> None:
        """`count` cases, then smaller ones of the first that fails."""

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=count,
            deadline=None,
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            verbosity=hypothesis.Verbosity.quiet,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(strategy)
        def each(case: Case) -> None:
            self.one(case)

        with contextlib.suppress(Mismatch, _Enough):
            each()

    def one(self, case: Case) -> None:
        """Hold one case."""
        if self.failed is not None and time.monotonic() > self._until:
            raise _Enough
        try:
            outcome = hold(self.attention, case, self.backend, self.device)
        except Impossible:
            self.skipped += self.failed is None
            return
        except Exception as error:
            outcome = Outcome({}, (f"{type(error).__name__}: {error}",))
        if self.failed is None:
            self.ran += 1
            for name, ratio in outcome.ratios.items():
                self.worst[name] = max(ratio, self.worst.get(name, 0.0))
        if not outcome.problems:
            return
        if self.failed is None:
            self._until = time.monotonic() + SHRINK_SECONDS
        if self.failed is None or _size(case) <= _size(self.failed[0]):
            self.failed = case, outcome.problems
        raise Mismatch


def _size(case: Case) -> int:
    return sum(size for _, size in case.sizes) + case.q_start + case.k_start


def _told(case: Case, problems: tuple[str, ...]) -> str:
    return "\n".join([f"  {case}", *(f"    {problem}" for problem in problems)])
