"""Reductions and normalisers over channels of a pair: in a tile, no tensor for every pair."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.codegen.test_passes import PLAIN, SELF, SIZES, fused

import attnspec
from attnspec.runtime import cpu_tiles
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

CASES = {
    "plain": PLAIN,
    "self": SELF,
    "no keys": replace(SELF, sizes=tuple((n, 0 if n == "j" else s) for n, s in SIZES)),
    "started": replace(PLAIN, q_start=4, k_start=2),
    "half": replace(SELF, dtype="float16"),
    "unseen": replace(SELF, fill="unseen_nan"),
}
HEAD = "axis c = 8\nquery x[c]\nkey y[c]\nparam w[h, c] = 0.4\nmask j <= i\n"
SCORE = f"{HEAD}score = dot(q[i], k[j]) / sqrt(D) + "
POINTS = "axis p = 3\naxis c = 4\ninput at[b, n, p]\ninput shift[c, p]\nmask j <= i\n"

TEXTS = {
    "a log-sum-exp": f"{SCORE}logsumexp(c, x[i] * y[j])",
    "a log-sum-exp of some": f"{SCORE}where(i == j, 0, logsumexp(c, x[i] + y[j], where=c < 3))",
    "a softmax": f"{SCORE}sum(c, softmax(x[i] * y[j], over=c) * tanh(x[i] + y[j]))",
    "a softmax with a sink": f"{SCORE}dot(w, softmax(x[i] * y[j], over=c, sink=0.3))",
    "a function of a softmax": f"{SCORE}sum(c, relu(softmax(x[i] * y[j], over=c) - 0.1) * x[i])",
    "a normalised vector": f"{SCORE}dot(w, normalize(x[i] + y[j]))",
    "a function of a normalised vector": f"{SCORE}dot(w, relu(rmsnorm(x[i] + y[j])))",
    "a mean": f"{SCORE}mean(c, tanh(x[i] * y[j]))",
    "a mean of some": f"{SCORE}mean(c, tanh(x[i] * y[j]), where=x[i] > 0)",
    "the largest": f"{SCORE}amax(c, x[i] + y[j])",
    "the least of some": f"{SCORE}where(i == j, 0, amin(c, sin(x[i] + y[j]), where=c % 2 == 0))",
    "a product": f"{SCORE}prod(c, x[i] + tanh(y[j]), where=c % 3 > 0)",
    "the place of the largest": f"{SCORE}w[argmax(c, x[i] + y[j])]",
    "a product of tokens in every term": (
        f"{SCORE}sum(c, tanh(x[i] * dot(q[i], k[j]) / sqrt(D) + y[j]))"
    ),
    "channels as numbers": f"{SCORE}sum(c, exp(-(c + 1) * (i - j) / 8))",
    "a mask": f"{HEAD}mask amax(c, x[i] + y[j]) > -1 or i == j",
    "two layers": (
        "axis c\naxis g = 4\nquery x[c]\nkey y[c]\nparam W[c, g] = 0.3\nparam u[g] = 0.5\n"
        "score = dot(q[i], k[j]) / sqrt(D) + dot(u, tanh(tanh(x[i] + y[j]) @ W))"
    ),
    "distances of points": (
        f"{POINTS}score = dot(q[i], k[j]) / sqrt(D) + sum(c, exp(-norm(at[j] + shift - at[i])))"
    ),
    "turned by a learned place of the pair": (
        "input f[b, n]\nmask j <= i\nscore = dot(rope(q[i], i), rope(k[j], f[i] * f[j])) / sqrt(D)"
    ),
    "turned by a place of the pair": (
        "input c[b, n]: int\nmask j <= i\nlet u[n] = normalize(q[n])\n"
        "score = 3 * dot(rope(k[j], where(c[i] > c[j], i, j // 2)), rope(u[i], i))"
    ),
    "turned on one side": "score = dot(q[i], rope(k[j], (i - j) // 3)) / sqrt(D)",
    "turned at other speeds": (
        "score = dot(rope(q[i], i, base=10), rope(k[j], max(i - 4, j))) / sqrt(D)"
    ),
    "turned by two places": (
        "grid y, x\ninput f[b, n]\nlet far = abs(i.y - j.y) * f[i]\n"
        "score = dot(rope(q[i], i.y, i.x), rope(k[j], far, j.x)) / sqrt(D)"
    ),
    "turned values": "input f[b, n]\nmask j <= i\nvalue = rope(v[j], f[i] * (i - j))",
    "a function of what is turned": (
        "param w[h, d] = 0.5\nscore = dot(w, tanh(rope(q[i], i * j) + k[j])) / sqrt(D)"
    ),
    "a number of the row where the pair says": (
        "axis c = 5\naxis u = 5\ninput x[b, h, i, c]\ninput z[b, j]: int\n"
        "score = sum(u, x[i, u], where=x[i, u] > x[i, z[j] % 5]) + dot(q[i], k[j]) / sqrt(D)"
    ),
    "a cumulative sum": f"{SCORE}sum(c, relu(cumsum(c, x[i] * y[j], where=c != 3)))",
    "a cumulative sum of one": f"{SCORE}sum(c, relu(cumsum(c, cumsum(c, x[i] * y[j]))))",
    "the largest of a cumulative sum": f"{SCORE}amax(c, cumsum(c, x[i] - y[j]))",
    "weights by rank": f"{SCORE}sum(c, x[i] / (1 + rank(c, x[i] * y[j])))",
    "weights by rank of some": f"{SCORE}sum(c, x[i] / (1 + rank(c, y[j] - x[i], where=y[j] > 0)))",
    "the largest few": f"{SCORE}sum(c, where(topk(c, x[i] * y[j], 2, where=y[j] < 1), x[i], 0))",
    "equal ones by rank": (
        f"{HEAD}input z[b, j]: int\nscore = sum(c, w, where=rank(c, (c * z[j] + i) % 3) < 4)"
    ),
    "a sparsemax": f"{SCORE}sum(c, sparsemax(x[i] * y[j], over=c) * x[i])",
    "values by a sparsemax of some": (
        f"{HEAD}value = v[j] * sum(c, sparsemax(x[i] + y[j], over=c, where=y[j] > -0.5) * w)"
    ),
    "mixed by a sparsemax": (
        f"{HEAD}param W[c, e] = 0.3\nvalue = v[j] + sparsemax(x[i] - y[j], over=c) @ W"
    ),
    "images of points": (
        f"{POINTS}param mix[c, e] = 0.2\nlet near[i, j, c] = -norm2(at[j] + shift - at[i])\n"
        "score = dot(q[i], k[j]) / sqrt(D) + logsumexp(c, near)\n"
        "value = v[j] + softmax(near, over=c) @ mix"
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TEXTS)
def test_what_it_gives(name: str, case: str) -> None:
    grid = (("i.y", 3), ("i.x", 11)) if "grid" in TEXTS[name] else ()
    sizes = (*CASES[case].sizes, *grid)
    if grid and dict(sizes)["i"] * dict(sizes)["j"] == 0:
        pytest.skip("a grid has tokens")
    outcome = hold(fused(TEXTS[name]), replace(CASES[case], sizes=sizes), "cpu")
    assert not outcome.problems, outcome.problems


def test_a_product_over_many_channels_has_no_kernel() -> None:
    text = "score = dot(q[i], k[j]) + prod(d, sigmoid(q[i] + k[j]))"
    stage = attnspec.compile(f"attention a\n{text}").plan.stages[0]
    assert (stage.lowering, stage.why.partition(",")[0]) == (
        "blocked", "a product over the channels of a pair"
    )  # fmt: skip


def test_orders_of_many_channels_have_no_kernel() -> None:
    text = "score = dot(q[i], k[j]) + sum(d, relu(cumsum(d, q[i] * k[j])))"
    assert not attnspec.compile(f"attention a\n{text}").plan.fused


def test_vectors_that_no_pair_has() -> None:
    """A layer on a vector of a pair is one on what the weights of the vectors add up to."""
    found = fused(TEXTS["images of points"]).plan.passes
    assert sorted((p.form, p.lanes) for p in found) == [("number", ("c",)), ("vector", ())]


def test_a_derivative_that_only_the_backward_needs() -> None:
    attention = fused(TEXTS["a function of a normalised vector"])
    [part] = attention.plan.passes[0].sums
    [(name, _)] = part.beside
    forward = attention.source.partition("def backward_rows")[0]
    assert part.name in forward.split()
    assert name not in forward.split()


def test_sums_over_the_same_channels() -> None:
    """Derivatives to numbers of a pair are summed up in one loop with what they are those of, and
    what several sums read of a token is made once, with one gradient."""
    attention = fused(TEXTS["images of points"])
    for found in attention.plan.passes:
        assert len({v.operand.name for part in found.sums for v in part.vectors}) == 3
    rows = attention.source.partition("def backward_rows(")[2].partition("@kernel")[0]
    assert rows.count("for channel in tl.range") == 2 * len(attention.plan.passes[0].sums)


def test_the_first_of_equal_numbers_has_the_gradient() -> None:
    attention = fused(TEXTS["the largest"])
    q, k, v = (torch.ones(1, 1, 3, 4) for _ in range(3))
    x, y = (torch.zeros(1, 1, 3, 8, requires_grad=True) for _ in range(2))
    attention(q, k, v + torch.arange(3)[:, None], x, y, backend="cpu").sum().backward()
    assert x.grad is not None
    assert not x.grad[..., 1:].any()
    assert y.grad is not None
    assert y.grad[..., 0].any()


def test_a_part_of_a_tensor_of_both_sides_whose_queries_start_later() -> None:
    text = "axis p = 3\ninput at[b, n, p]\nscore = dot(q[i], k[j]) / sqrt(D) + at[i, 0] * at[j, 1]"
    case: Case = replace(PLAIN, q_start=4, k_start=2)
    outcome = hold(fused(text), case, "cpu")
    assert not outcome.problems, outcome.problems


def test_what_all_heads_share_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: dict[str, torch.Size] = {}
    whole = cpu_tiles.channels

    def channels(*args: Any) -> Iterator[int]:
        for channel in whole(*args):
            yield channel
            shapes.update({n: x.shape for n, x in args[1].items() if isinstance(x, torch.Tensor)})

    monkeypatch.setattr(cpu_tiles, "channels", channels)
    q, k = torch.rand(1, 4, 9, 8), torch.rand(1, 2, 9, 8)
    at, shift, mix = torch.rand(1, 9, 3), torch.rand(4, 3), torch.rand(4, 8)
    fused(TEXTS["images of points"])(q, k, k, at, shift, mix, backend="cpu")
    assert {shapes[name][1] for name in ("u_at", "u_z0")} == {1}


def test_what_no_channel_changes_is_computed_before_the_loop() -> None:
    source = fused(TEXTS["a log-sum-exp"]).source
    functions = dict(re.findall(r"^def (\w+)\((.*?)^\n\n", source, re.MULTILINE | re.DOTALL))
    [before] = [body for name, body in functions.items() if name.endswith("_before")]
    terms = [body for name, body in functions.items() if name.endswith(("_term", "_slopes"))]
    assert "torch.where(" in before
    assert terms
    assert not any("torch.where(" in body for body in terms)
