"""Logits that kernels shorten, in dtypes of 16 bits too, under Triton's interpreter:

TRITON_INTERPRET=1 python -m tests.runtime.scores
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import torch

import attnspec
from attnspec.runtime import arrange, launch
from attnspec.runtime.problem import Problem
from attnspec.runtime.tiles import INTERPRETED
from attnspec.runtime.typical import typical
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

SIZES = (("b", 1), ("h", 2), ("heads", 1), ("i", 40), ("j", 70), ("d", 16), ("e", 16))
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
# Rows past the last one add nothing to what a head's parameter gets.
TOTALS = "param s[h] = 0.4\noutput = none\nreturn total[b, h, i] = sum(j, exp(s + dot(q[i], k[j])))"
MAPS = "param s[h] = 0.4\noutput = none\nreturn map[b, h, i, j] = sigmoid(s + dot(q[i], k[j]))"
BORDER = "param a[h] = 0.5\nscore = dot(q[i], k[j]) + a * j / (M - i)"  # no number past the last
# Gradients of running sums count no place past the last, of rows that add keys up and of heads.
RUNNING = """index u = j
input x[b, h, i]
param s[h] = 0.4
let run[i, j] = sum(u, sigmoid(dot(q[i], k[u]) + s + x[i]), where=u >= j)
weight = tanh(dot(q[i], k[j])) * run[i, j] / N"""
RUNNING_BORDER = """index u = j
param s[h] = 0.4
let run[i, j] = sum(u, sigmoid(dot(q[i], k[u]) + s / (M - i)), where=u >= j)
weight = tanh(dot(q[i], k[j]) + s * j / (M - i)) * run[i, j] / N"""
RUNNING_DOWN = """index w = i
input y[b, h, j]
param s[h] = 0.4
let run[i, j] = sum(w, sigmoid(dot(q[w], k[j]) + s + y[j] + w / N), where=w >= i)
weight = tanh(dot(q[i], k[j])) * run[i, j] / N"""
# Query heads share a key head, to whose table each adds.
TABLES = """param r[12, d] = 0.1
score = dot(q[i] - r[clamp(i - j, 0, 11)], k[j])"""
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


def reached(
    name: str, again: bool, rows: int = 81, dtype: torch.dtype = torch.float32, **given: object
) -> list[str]:
    """Which rows, the last of 81, get what from values that are not finite, beside PyTorch's."""
    attention = attnspec.load(name)
    heads = 4 if again else 2  # calls of one kind keep their tile
    call = typical(
        attention.spec,
        heads=heads,
        kv_heads=1,
        length=81,
        rows=rows,
        channels=16,
        dtype=dtype,
    )
    v = call["v"]
    first, second = (20, 45) if rows == 81 else (75, 78)
    v[:, :, first], v[:, :, second, 3] = float("inf"), float("nan")
    call |= {"q_start": 81 - rows} if rows < 81 else {}
    with patch.object(launch, "INTERPRETED", replace(INTERPRETED, again=again)):
        theirs, ours = (attention(**call | given, backend=b) for b in ("cpu", "triton"))
    finite = theirs.isfinite()
    if not finite.all(-1).any() or finite.all():
        return [f"{name}: every row is like the others"]
    same = torch.equal(ours.isfinite(), finite)
    far = 1e-4 if dtype is torch.float32 else 4e-3
    near = torch.allclose(ours[finite], theirs[finite], rtol=far, atol=far)
    return [] if same and near else [f"{name}: finite alike {same}, near {near}"]


def chosen(text: str, dtype: torch.dtype) -> dict[str, object]:
    """What a call of a spec decides for its forward kernel."""
    attention = attnspec.compile(f"attention chosen\n{text}\n")
    plan = attention._generated.PAIRWISE
    x = torch.zeros(1, 1, 1, 16, dtype=dtype)
    tensors = {name: x for name, _ in plan.operands}
    call = Problem(plan, tensors, dict.fromkeys(plan.numbers, 1.0), 1, 1, 1, 1, 1, 0, 0)
    return arrange.choices(call)


def checks() -> Iterator[list[str]]:
    """What is wrong, check by check."""
    for start in (0, FAR):
        yield failures("alibi", ALIBI, *DTYPES, start=start)
        yield failures("double", DOUBLE, *DTYPES, start=start)
    yield failures("bias", BIAS, *DTYPES)
    for cap in (3, 20, 200):
        yield failures("cap", CAP.format(cap=cap), *DTYPES)
    yield failures("clamp", CLAMP, *DTYPES)
    yield failures("stopped", STOPPED, "float32")
    yield failures("stopped_late", STOPPED_LATE, "float32")
    yield failures("cosine", COSINE, *DTYPES)
    yield failures("sink", SINK, *DTYPES)
    yield failures("empty", EMPTY, *DTYPES)
    yield failures("totals", TOTALS, "float32")
    yield failures("maps", MAPS, "float32")
    yield failures("border", BORDER, "float32")
    yield failures("running", RUNNING, "float32")
    yield failures("running_border", RUNNING_BORDER, "float32")
    yield failures("running_down", RUNNING_DOWN, "float32")
    yield failures("tables", TABLES, "float32")
    for again in (False, True):
        for name in ("sliding_window", "causal_documents", "differential", "gated_elementwise"):
            yield reached(name, again)
        yield reached("natten", again, side=3)
        yield reached("sliding_window", again, dtype=torch.float16)
        yield reached("sliding_window", again, rows=8, window=3)  # in one tile
    yield failures("sides", SIDES, *DTYPES)
    yield failures("places", PLACES, "float32")
    yield failures("column", COLUMN, "float32")
    yield failures("constant", CONSTANT, "float32")
    # 40 log2(e) = 57.7 bits: within the range of float32, not of float16
    expected = {torch.float32: (False, 0), torch.bfloat16: (True, 0), torch.float16: (True, None)}
    for dtype, (coarse, fixed) in expected.items():
        found = chosen(CAP.format(cap=20), dtype)
        right = (found["COARSE"], found["FIXED"]) == (coarse, fixed)
        yield [] if right else [f"cap 20 in {dtype}: {found}"]
    top = chosen(CAP.format(cap=3), torch.float16)["FIXED"]
    yield [] if top == 15 else [f"cap 3 in float16 has the fixed maximum {top}"]
    gentle = {"SHORT": True, "COARSE": False, "FIXED": None}
    found = chosen(CAP.format(cap=900), torch.bfloat16)
    yield [] if found == gentle else [f"cap 900 in bfloat16: {found}"]


def main() -> int:
    """Exit 1 at the first wrong result."""
    assert INTERPRETED.block_m == 32
    for wrong in checks():
        if wrong:
            print("\n".join(wrong))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
