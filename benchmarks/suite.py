"""What is timed, and what it is meant to reach: data alone.

Lists of requests stand in order of importance, since a run ends when its time is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from tests.runtime.planning import documents

from attnspec.runtime.bench import BOTH, FORWARD, Request, Shape

CPU_THREADS = 2
DEFAULT = Shape(batch=1, heads=8, length=4096, channels=64, dtype="float32", device="cpu")
GPU_TOKENS, GPU_WIDTH = 16_384, 2_048  # batch * length and heads * channels
MEMORY_LENGTHS = (2048, 4096, 8192, 16_384, 32_768)
CPU_LENGTHS = (512, 1024, 2048, 16_384)
GPU_LENGTHS = (512, 1024, 2048, 4096, 16_384, 32_768, 65_536)
DECODE_LENGTHS = (8192, 32_768, 131_072)
GROUP = 4  # query heads to a key head, where they are grouped


@dataclass(frozen=True, slots=True)
class Case:
    """A spec under the name it has in tables, its arguments and how it is loaded: see `Request`.
    `beside` is what of PyTorch can say it and is best at it on a CPU."""

    name: str
    spec: str
    given: Callable[[int], Mapping[str, Any]] | None = None
    constant: tuple[str, ...] = ()
    grouped: bool = False
    beside: str = "sdpa"
    descriptors: bool = False

    def at(self, shape: Shape, **options: Any) -> Request:
        """This case at one size."""
        if self.grouped:
            shape = replace(shape, kv_heads=max(1, shape.heads // GROUP))
        options |= {"constant": self.constant, "descriptors": self.descriptors}
        return Request(self.spec, shape, case=self.name, given=self.given, **options)


CASES = {
    case.name: case
    for case in (
        Case("causal", "causal"),
        Case("window 512", "sliding_window", lambda n: {"window": min(512, n // 4)}),
        Case("ALiBi", "alibi", constant=("slope",)),
        Case("full", "full"),
        Case("documents", "causal_documents", lambda n: {"doc": documents(n, 8)}),
        Case("T5 buckets", "t5"),
        Case("prefix", "prefix_lm", lambda n: {"prefix": torch.tensor([n // 4])}),
        Case("softcap 20", "softcap", lambda n: {"cap": 20.0}, beside="eager"),
        Case("neighbourhood 2-D", "natten"),
        Case("sink", "sink", beside="eager"),
        Case("sigmoid", "sigmoid", beside="eager"),
        Case("gated output", "gated_elementwise"),
        Case("GQA 4:1", "causal", grouped=True),
    )
}
# Beside these by pointers. Not the tables' choice: it has no goal, and one peer alone.
DESCRIBED = (
    Case("causal by descriptors", "causal", descriptors=True),
    Case("GQA 4:1 by descriptors", "causal", grouped=True, descriptors=True),
)
FIRST = ("causal", "window 512", "ALiBi")  # those with goals on the CPU


def cpu() -> Iterator[Request]:
    """The CPU's suite: goals, memory by length, other cases, head dimensions and lengths."""
    for name in FIRST:
        case = CASES[name]
        yield case.at(
            DEFAULT, against=("sdpa", "eager", "flex"), phases=(FORWARD,), seconds=3.0, limit=20.0
        )
        yield case.at(DEFAULT, against=("sdpa", "eager"), phases=(BOTH,), seconds=3.0, limit=30.0)
    for name in ("window 512", "causal"):
        for length in MEMORY_LENGTHS:
            yield CASES[name].at(replace(DEFAULT, length=length), against=(), timed=False)
    quick: dict[str, Any] = {"seconds": 0.5, "limit": 8.0}
    for name, case in CASES.items():
        if name not in FIRST:
            yield case.at(DEFAULT, against=(case.beside,), **quick)
    for channels in (128, 96, 256):
        shape = replace(DEFAULT, channels=channels, heads=max(1, 512 // channels))
        yield CASES["causal"].at(shape, against=("sdpa",), **quick)
    for length in CPU_LENGTHS:
        for name in ("causal", "window 512"):
            yield CASES[name].at(replace(DEFAULT, length=length), against=("sdpa",), **quick)


def gpu() -> Iterator[Request]:
    """The GPU's suite: goals, all cases, then lengths, head dimensions, float16 and decoding."""
    options: dict[str, Any] = {"against": ("flex", "sdpa"), "seconds": 0.3, "limit": 5.0}
    goals = ("causal", "window 512", "documents", "ALiBi", "T5 buckets")
    for name in (*goals, *(name for name in CASES if name not in goals)):
        yield CASES[name].at(_on_gpu(8192), **options)
    for length in sorted(GPU_LENGTHS, key=lambda n: abs(n - 16_384)):
        yield CASES["causal"].at(_on_gpu(length), **options)
    for channels in (64, 256, 96):
        yield CASES["causal"].at(_on_gpu(8192, channels), **options)
    yield CASES["causal"].at(replace(_on_gpu(8192), dtype="float16"), **options)
    for name in ("causal", "GQA 4:1"):
        for length in DECODE_LENGTHS:
            shape = replace(_on_gpu(length), rows=1, batch=8)
            yield CASES[name].at(shape, phases=(FORWARD,), **options)
    for case, channels in product(DESCRIBED, (128, 64)):
        yield case.at(_on_gpu(8192, channels), **(options | {"against": ("sdpa",)}))
    for name in (*goals[1:], "full"):
        for length in (1024, 32_768):
            yield CASES[name].at(_on_gpu(length), **options)
    for name in CASES:
        yield CASES[name].at(_on_gpu(8192, 64), **options)


def _on_gpu(length: int, channels: int = 128) -> Shape:
    batch, heads = max(1, GPU_TOKENS // length), GPU_WIDTH // channels
    return Shape(batch, heads, length, channels, "bfloat16", "cuda")


def toy() -> Iterator[Request]:
    """The GPU's suite at sizes for the interpreter: what it measures are no figures."""
    seen = set()
    for request in gpu():
        shape = request.shape
        small = replace(
            shape, batch=1, heads=2 if shape.kv_heads is None else GROUP, length=64,
            kv_heads=shape.kv_heads and 1, channels=shape.channels // 8, dtype="float32",
            device="cpu",
        )  # fmt: skip
        if (request.case, small) not in seen:
            seen.add((request.case, small))
            yield replace(request, shape=small, against=("sdpa", "eager"), seconds=0.0, limit=0.0)


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one kind of figure over all results that it speaks of.

    `figure` is "ratio" (our time over that of `against`), "memory slope" (of the log of the bytes
    over that of the length), "TFLOP/s" or "backward TFLOP/s". A case of "" is every case.
    """

    device: str
    figure: str
    phase: str
    case: str
    bound: float
    against: str = ""
    channels: int | None = None
    length: int = 0  # at least
    dtype: str = ""

    @property
    def text(self) -> str:
        """What it asks."""
        figure = f"our time over {self.against}'s" if self.against else self.figure
        sign = ">=" if self.figure.endswith("TFLOP/s") else "<="
        return f"{self.case or 'every case'}, {self.phase}: {figure} {sign} {self.bound:g}"


def _cpu_goal(phase: str, case: str, bound: float, against: str) -> Goal:
    return Goal("cpu", "ratio", phase, case, bound, against, 64, DEFAULT.length)


def _gpu_goal(figure: str, phase: str, case: str, bound: float, against: str = "") -> Goal:
    return Goal("cuda", figure, phase, case, bound, against, 128, 8192, "bfloat16")


GOALS = (
    _cpu_goal(FORWARD, "causal", 1.0, "sdpa"),
    *(_cpu_goal(FORWARD, name, 1.25, "flex") for name in FIRST),
    _cpu_goal(BOTH, "causal", 1.0, "sdpa"),
    *(_cpu_goal(BOTH, name, 0.35, "eager") for name in FIRST[1:]),
    *(Goal("cpu", "memory slope", phase, name, 1.1) for phase in (FORWARD, BOTH)
      for name in ("window 512", "causal")),
    _gpu_goal("TFLOP/s", FORWARD, "causal", 480),
    _gpu_goal("backward TFLOP/s", BOTH, "causal", 350),
    *(_gpu_goal("ratio", phase, name, round(1 / 1.2, 3), "flex") for phase in (FORWARD, BOTH)
      for name in ("causal", "window 512", "documents", "ALiBi")),
    _gpu_goal("ratio", BOTH, "T5 buckets", 0.5, "flex"),
    *(Goal("cuda", "ratio", phase, "", 1.0, "flex") for phase in (FORWARD, BOTH)),
)  # fmt: skip
