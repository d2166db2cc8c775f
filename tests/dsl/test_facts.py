"""Facts on small specs: what is proved, and what only looks like it and must not be."""

from __future__ import annotations

import pytest

from attnspec.dsl.analysis import Fact, analyze
from attnspec.dsl.check import check
from attnspec.dsl.parse import parse

STATE = "input a[b, h, t]\ninput u[b, h, t, d]\nstate S[d, e]\noutput = q[t] @ S[t]\n"


def facts(text: str) -> dict[str, Fact]:
    """The facts of a spec by name."""
    spec, _ = check(parse(f"attention x\n{text}\n"))
    return {fact.name: fact for fact in analyze(spec).facts}


def test_every_fact_says_why_and_what_it_buys() -> None:
    for fact in facts("mask j <= i and i - j < 3\ncausal").values():
        assert all((fact.value, fact.why, fact.buys))


# Rows


@pytest.mark.parametrize(
    ("mask", "value", "why"),
    [
        ("j <= i", "every query has a pair", "j = 0"),
        ("i - 4 < j <= i", "a query at a key's position has a pair", "j = i"),
        ("i // 7 == j // 7", "a query at a key's position has a pair", "j = i"),
        ("j <= i and (i - j) % 3 == 0", "a query at a key's position has a pair", "j = i"),
        ("i - 4 < j <= i\nrequire M <= N", "every query has a pair", "j = i"),
    ],
)
def test_a_row_with_a_witness(mask: str, value: str, why: str) -> None:
    found = facts(f"mask {mask}")["row not empty"]
    assert (found.value, found.why) == (value, f"{why} satisfies the mask")


@pytest.mark.parametrize(
    "mask",
    [
        "j < i",
        "i != j",
        "(i - j) % 3 == 1",
        "j < w\ninput w: int",
        "keep[j]\ninput keep[b, j]: bool",
        "doc[i] == doc[j]\ninput doc[b, n]: int",  # the call may give (for queries, for keys)
        "doc[j] <= doc[i]\ninput doc[b, n]: int",
        "j <= i and (i - j) % 3 != 0",
    ],
)
def test_a_row_that_may_be_empty(mask: str) -> None:
    assert "row not empty" not in facts(f"mask {mask}")


# The two positions


@pytest.mark.parametrize("mask", ["j <= i", "i - 4 < j <= i", "j // 4 < i // 4", "2 * j < i"])
def test_causal_is_found_without_a_claim(mask: str) -> None:
    assert facts(f"mask {mask}")["causal"].why == "the mask implies j <= i"


@pytest.mark.parametrize("mask", ["j <= i + 1", "i // 4 == j // 4", "abs(i - j) < 3", "j < 9"])
def test_not_causal(mask: str) -> None:
    assert "causal" not in facts(f"mask {mask}")


@pytest.mark.parametrize(
    "text",
    [
        "mask i - 4 < j <= i",
        "mask (i - j) % 3 == 0 and abs(i - j) < 9",
        "mask max(i, j + 2) - min(i - 1, j) < 9",
        "mask (3 * i) % 3 == 0 and (4 * i) // 2 - 2 * j < 9 and (2 * i - j) - i <= 4",
        "score = dot(rope(q[i], i), rope(k[j], j))\nmask j <= i",
        "input f[b, n]\nlet c[n] = cumsum(n, f[n])\nscore = dot(q[i], k[j]) + c[i] - c[j]",
        "param w[5]\nscore = dot(q[i], k[j]) + w[clamp(j - i, -2, 2) + 2]",
        "score = dot(q[i], k[j - 1, pad=0])\nmask j <= i",
        "input far: int\nmask i - j < far",
    ],
)
def test_distance_alone(text: str) -> None:
    assert facts(text)["translation-invariant"].value.startswith("depends on i - j alone")


@pytest.mark.parametrize(
    "text",
    [
        "mask j < 4",
        "mask i // 4 == j // 4",
        "mask i % 3 == j % 3",
        "mask i + j < 9",
        "mask 2 * j <= i",
        "score = dot(rope(q[i], i), rope(k[j], 2 * j))",
        "score = dot(rope(q[i], i), k[j])",
        "score = dot(rope(q[i], i, base=100), rope(k[j], j))",
        "score = dot(q[i], k[j]) / (1 + i)",
        "output = sum(j, weight * v[j]) * i",
        "param w[9]\nmask j <= i\nscore = dot(q[i], k[j]) + w[min(i, 8)]",
        "mask max(i, 4) >= j",
        "let seen[i] = 0.5 * i\nscore = dot(q[i], k[j]) + seen[i]",
        "mask random(3) < 0.5",
        "let best[i] = argmax(j, score)\nmask j <= i\noutput = sum(j, weight * v[j]) * best[i]",
    ],
)
def test_more_than_distance(text: str) -> None:
    assert not {"translation-invariant", "position-free"} & set(facts(text))


def test_no_position_at_all() -> None:
    assert "position-free" in facts("input doc[b, n]: int\nmask doc[i] == doc[j]")
    assert "position-free" not in facts("mask j <= i")
    assert "position-free" not in facts("let c[j] = cumsum(j, v[j])\nvalue = c[j]")


def test_distances_on_a_grid() -> None:
    head = "grid y, x\nmask "
    found = facts(head + "abs(i.y - j.y) <= 2 and j.x <= i.x")["translation-invariant"]
    assert found.value == "depends on i.y - j.y, i.x - j.x alone, apart from the tensors"
    for mask in ("i.y // 2 == j.y // 2", "abs(i - j) < 3 and i.y == j.y", "i.x < 3"):
        assert "translation-invariant" not in facts(head + mask)


@pytest.mark.parametrize(
    "mask",
    [
        "abs(i - j) <= 3",
        "i // 4 == j // 4",
        "i == 0 or j == 0",
        "i - j < 3 and j - i <= 2",
        "(j - i) % 3 == 0",
        "not (i < 4 and j < 4)",
        "min(i, j) < 3",
        "i * j < 9",
        "doc[i] == doc[j]\ninput doc[b, n]: int",
    ],
)
def test_symmetric(mask: str) -> None:
    assert "symmetric" in facts(f"mask {mask}")


@pytest.mark.parametrize(
    "mask",
    ["j <= i", "i - j < 3 and j - i < 2", "i // 4 == j // 5", "i < 3 or j < 4", "(i - j) % 3 == 1"],
)
def test_not_symmetric(mask: str) -> None:
    assert "symmetric" not in facts(f"mask {mask}")


# Where gradients are summed


def test_index_sets() -> None:
    text = """
query q2[d]
input row[b, i]
input both[b, h, n]
input logits[b, i, j]
param slope[h] = 1
param shift[d] = 0
param table[h, 9] = 0
param alone = 0
param gated[h] = 1
score = (dot(q[i] + q2[i], k[j] + shift) * slope + row[i] + both[i] * both[j]
  + logits[i, j] + table[clamp(i - j, 0, 8)] + alone * (i - j))
output = gated * sum(j, weight * v[j])
"""
    found = facts(text)["index sets"]
    sets: dict[str, list[str]] = {}
    for part in found.value.split("; "):
        names, _, axes = part.partition(": ")
        for name in names.split(", "):
            sets.setdefault(name, []).append(axes)
    assert sets == {
        "q": ["b, h, i"],
        "q2": ["b, h, i"],
        "k": ["b, h, j"],
        "v": ["b, h, j"],
        "row": ["b, i"],
        "both": ["b, h, i", "b, h, j"],
        "logits": ["b, i, j"],
        "slope": ["h"],
        "table": ["h"],
        "shift": ["none"],
        "alone": ["none"],
    }
    assert "slope, alone from one partial sum a tile of queries" in found.buys
    assert "table from the entries' own partial sums" in found.buys
    assert "logits at its own pair" in found.buys


def test_arithmetic_on_numbers_is_done_for_the_pair() -> None:
    bias = "where(x[j] > 0, exp(w), w * x[j])"
    text = f"param w[h] = 1\ninput x[b, j]\nscore = dot(q[i], k[j]) + {bias}"
    found = facts(text)["index sets"]
    assert found.value == "q: b, h, i; k, v: b, h, j; w: h; x: b, j"
    assert "w from one partial sum" in found.buys


def test_what_has_no_gradient_has_no_index_set() -> None:
    text = "param w[h] = 1\nscore = dot(stopgrad(q[i]), k[j]) + floor(w)\nmask w * j <= i"
    assert facts(text)["index sets"].value == "k, v: b, h, j"


# Derivatives


@pytest.mark.parametrize(
    ("score", "value", "buys"),
    [
        ("dot(q[i], k[j]) / sqrt(D)", "linear in the dot products", "from the values"),
        ("3 * tanh(dot(q[i], k[j]))", "tanh' = 1 - y**2", "from the values"),
        ("sigmoid(dot(q[i], k[j])) ** 2", "sigmoid' = y*(1 - y)", "from the values"),
        ("relu(dot(q[i], k[j]))", "relu' = step(x)", "from the values"),
        ("sin(dot(q[i], k[j]))", "sin' = cos(x)", "sin needs another function there"),
        ("dot(q[i], k[j]) * cos(i - j)", "linear in the dot products", "from the values"),
        ("floor(dot(q[i], k[j])) + score", "linear in the dot products", "from the values"),
    ],
)
def test_derivative(score: str, value: str, buys: str) -> None:
    score = score.replace("score", "dot(q[i], k[j])")
    found = facts(f"score = {score}")["derivative"]
    assert found.value == value
    assert buys in found.buys


# Separable weights


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("weight = dot(q[i], k[j])", "dot * f(i) * g(j)"),
        ("weight = dot(q[i], k[j]) * 0.9 ** (i - j)\nmask j <= i", "dot * f(i) * g(j)"),
        ("weight = dot(q[i], k[j]) * 0.9 ** abs(i - j)\nmask j <= i", "dot * f(i) * g(j)"),
        ("weight = dot(q[i], k[j]) * 0.9 ** max(i - j, 0)\nmask j < i", "dot * f(i) * g(j)"),
        (
            "input f[b, h, n]\nlet c[n] = cumsum(n, f[n])\nmask j <= i\n"
            "weight = dot(q[i], k[j]) * exp(c[i] - c[j])",
            "dot * f(i) * g(j)",
        ),
        ("weight = dot(q[i], k[j]) * cos(0.1 * (i - j))", "sum of 2 terms dot * f(i) * g(j)"),
        (
            "let a[i, j] = dot(relu(q[i]), relu(k[j])) + 1\nweight = a[i, j] / sum(j, a[i, j])",
            "sum of 2 terms dot * f(i) * g(j)",
        ),
    ],
)
def test_separable(text: str, value: str) -> None:
    assert facts(text)["separable weight"].value == value


@pytest.mark.parametrize(
    "text",
    [
        "mask j <= i",  # a softmax
        "weight = relu(dot(q[i], k[j]))",
        "weight = exp(dot(q[i], k[j]))",
        "weight = dot(q[i], k[j]) ** 2",
        "weight = dot(q[i], k[j]) * dot(k[i], q[j])",
        "weight = dot(q[i], k[j]) * 0.9 ** abs(i - j)",  # both directions
        "weight = dot(q[i], k[j]) / (1 + i - j)\nmask j <= i",
        "weight = dot(q[i], k[j]) * 0.9 ** floor(i / 2 - j / 2)\nmask j <= i",
        "weight = dot(q[i], k[j]) * 0.9 ** ((i - j) // 2)\nmask j <= i",
        "weight = dot(q[i], k[j]) * 0.9 ** ((i - j) ** 2)\nmask j <= i",
        "weight = dot(q[i], k[j]) * 0.9 ** (i - j)\nmask i - 9 < j <= i",  # a window
        "weight = dot(q[i], k[j])\nmask i // 4 == j // 4",
        "param w[h, 9]\nweight = dot(q[i], k[j]) * w[clamp(i - j, 0, 8)]\nmask j <= i",
        "weight = where(i - j < 4, 1, 0.5) * dot(q[i], k[j])\nmask j <= i",
    ],
)
def test_not_separable(text: str) -> None:
    assert "separable weight" not in facts(text)


@pytest.mark.parametrize(
    ("step", "shape"),
    [
        ("S[t - 1] + outer(k[t], v[t])", "S <- A S + write, A constant"),
        ("a[t] * S[t - 1] + outer(k[t], v[t])", "S <- A S + write, A scalar"),
        ("u[t] * S[t - 1] + outer(k[t], v[t])", "S <- A S + write, A diagonal over d"),
        ("where(a[t] > 0, 0, S[t - 1]) + outer(k[t], v[t])", "S <- A S + write, A scalar"),
        (
            "a[t] * (S[t - 1] - outer(k[t], k[t] @ S[t - 1])) + outer(k[t], v[t])",
            "S <- A S + write, A scalar, minus rank one (delta rule) over d",
        ),
    ],
)
def test_a_recurrence_in_normal_form(step: str, shape: str) -> None:
    assert facts(f"{STATE}step S[t] = {step}")["recurrence S"].value == shape


@pytest.mark.parametrize(
    "step",
    [
        "tanh(S[t - 1]) + outer(k[t], v[t])",
        "S[t - 1] ** 2 + outer(k[t], v[t])",
        "S[t - 1] / (1 + norm2(k[t] @ S[t - 1])) + outer(k[t], v[t])",
        "max(S[t - 1], outer(k[t], v[t]))",
        "S[t - 1] + outer(S[t - 1] @ (k[t] @ S[t - 1]), v[t])",
    ],
)
def test_a_recurrence_without_normal_form(step: str) -> None:
    assert "recurrence S" not in facts(f"{STATE}step S[t] = {step}")


# Domains


@pytest.mark.parametrize(
    ("text", "value", "by"),
    [
        ("score = dot(q[i], k[j]) / D", "division by D", "the ranges"),
        ("param w[4]\nscore = dot(q[i], k[j]) + w[i % 4]", "index of w i % 4", "the ranges"),
        (
            "param w[4]\nrequire i < 4\nscore = dot(q[i], k[j]) + w[i]",
            "index of w i",
            "`require`",
        ),
        (
            "mask j < i\nscore = dot(q[i], k[j]) / (i - j)",
            "division by i - j",
            "the mask and the conditions around it",
        ),
    ],
)
def test_domain(text: str, value: str, by: str) -> None:
    found = facts(text)["domain"]
    assert found.value == value
    assert found.why.startswith(f"interval and linear arithmetic on {by}")


def test_what_data_decides_is_not_called_safe() -> None:
    assert "domain" not in facts("weight = score / sum(j, score)\nscore = dot(q[i], k[j])")
