"""Logits that kernels shorten, in dtypes of 16 bits too, under Triton's interpreter:

TRITON_INTERPRET=1 python -m tests.runtime.scores
"""

from __future__ import annotations

import sys

import torch

import attnspec
from attnspec.runtime import arrange
from attnspec.runtime.problem import Problem
from attnspec.runtime.tiles import INTERPRETED
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

SIZES = (("b", 1), ("h", 4), ("heads", 2), ("i", 70), ("j", 90), ("d", 16), ("e", 16))
FAR = 131_000  # slope * position has few digits left there

ALIBI = "param slope[h] = 2.0 ** (-h - 1)\nmask j <= i\nscore = dot(q[i], k[j]) - slope * (i - j)"
DOUBLE = "score = dot(q[i], k[j]) / sqrt(D) + 0.1 * (2 * j - 3 * i)"
BIAS = """input r[b, h, i]
score = dot(q[i], k[j]) / sqrt(D) + r[i]
return l[b, h, i] = logsumexp(j, score)"""
CAP = "mask j <= i\nscore = {cap} * tanh(dot(q[i], k[j]) / sqrt(D))"
CLAMP = "mask j < i\nscore = clamp(dot(q[i], k[j]), -3, 3) + 1"
COSINE = "score = 6 * dot(normalize(q[i]), normalize(k[j]))"
SINK = """param z[h] = 1
mask j <= i
score = 5 * tanh(dot(q[i], k[j]))
weight = softmax(score, sink=z)"""
STOPPED = "mask j <= i\nscore = dot(stopgrad(q[i]), stopgrad(k[j])) / sqrt(D)"
STOPPED_LATE = "score = stopgrad(dot(q[i], k[j]) / sqrt(D))"
SIDES = """input x[b, h, i]
input y[b, h, j]
mask j <= i
score = x[i] + y[j]"""
PLACES = "param width[h] = 2\nmask j <= i\nscore = -((i - j) ** 2) / (1 + width ** 2)"
COLUMN = "input y[j]\nmask j <= i\nscore = y[j]"
CONSTANT = "mask abs(i - j) <= 3\nscore = 0"
# Most rows have no weight at all: there the score's gradient is beyond float16, times 0.
EMPTY = """let raw = dot(relu(q[i] - 2), relu(k[j]))
weight = raw / max(sum(j, raw), 0.000001)"""
DTYPES = ("float32", "float16")


def failures(name: str, text: str, *dtypes: str, start: int = 0) -> list[str]:
    """What the rule of `verify` finds wrong with a spec's kernels."""
    attention = attnspec.compile(f"attention {name}\n{text}\n")
    assert attention.plan.fused, name
    found = []
    for dtype in dtypes:
        outcome = hold(
            attention,
            Case(SIZES, start, max(start - 30, 0), dtype, "contiguous", "normal", 5),
            "triton",
        )
        wrong = [f"{key} {ratio:.2f}" for key, ratio in outcome.ratios.items() if ratio > 1]
        found += [f"{name} {dtype} at {start}: {x}" for x in [*wrong, *outcome.problems]]
    return found


def chosen(text: str, dtype: torch.dtype) -> dict[str, object]:
    """What a call of a spec decides for its forward kernel."""
    attention = attnspec.compile(f"attention chosen\n{text}\n")
    plan = attention._generated.PAIRWISE
    x = torch.zeros(1, 1, 1, 16, dtype=dtype)
    tensors = {name: x for name, _ in plan.operands}
    call = Problem(plan, tensors, dict.fromkeys(plan.numbers, 1.0), 1, 1, 1, 1, 1, 0, 0)
    return arrange.choices(call)


def main() -> None:
    assert INTERPRETED.block_m == 32
    wrong = []
    for start in (0, FAR):
        wrong += failures("alibi", ALIBI, *DTYPES, start=start)
        wrong += failures("double", DOUBLE, *DTYPES, start=start)
    wrong += failures("bias", BIAS, *DTYPES)
    for cap in (3, 20, 200):
        wrong += failures("cap", CAP.format(cap=cap), *DTYPES)
    wrong += failures("clamp", CLAMP, *DTYPES)
    wrong += failures("stopped", STOPPED, "float32")
    wrong += failures("stopped_late", STOPPED_LATE, "float32")
    wrong += failures("cosine", COSINE, *DTYPES)
    wrong += failures("sink", SINK, *DTYPES)
    wrong += failures("empty", EMPTY, *DTYPES)
    wrong += failures("sides", SIDES, *DTYPES)
    wrong += failures("places", PLACES, "float32")
    wrong += failures("column", COLUMN, "float32")
    wrong += failures("constant", CONSTANT, "float32")
    # 40 log2(e) = 57.7 bits: within the range of float32, not of float16
    expected = {torch.float32: (False, 0), torch.bfloat16: (True, 0), torch.float16: (True, None)}
    for dtype, (coarse, fixed) in expected.items():
        found = chosen(CAP.format(cap=20), dtype)
        if (found["COARSE"], found["FIXED"]) != (coarse, fixed):
            wrong.append(f"cap 20 in {dtype}: {found}")
    if chosen(CAP.format(cap=3), torch.float16)["FIXED"] != 15:
        wrong.append("cap 3 in float16 has no fixed maximum")
    if chosen(CAP.format(cap=900), torch.bfloat16) != {
        "SHORT": True,
        "COARSE": False,
        "FIXED": None,
    }:
        wrong.append("cap 900 counts as gentle")
    print("\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
