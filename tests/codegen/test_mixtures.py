"""Several softmaxes in one pass: which sums are joined, and what the one pass gives."""

from __future__ import annotations

import pytest
import torch
from tests.codegen.test_passes import EMPTY, PLAIN, SELF, TWO, fused, shown

import attnspec
from attnspec.runtime.api import Attention
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

A = "softmax(score)"
B = "softmax(dot(q2[i], k2[j]))"
C = "softmax(0.5 * score + dot(q2[i], k2[j]))"
LAM = "param lam[h] = 0.5\n"
GATE = "input open[b, h, i]\n"

# What one pass computes: text, and the weights that it adds up.
JOINED = {
    "weights": (f"{TWO}{LAM}mask j <= i + 2\nweight = {A} - lam * {B}", "softmax + softmax"),
    "sums": (
        f"{TWO}{LAM}mask j <= i + 2\noutput = sum(j, {A} * v[j]) - lam * sum(j, {B} * v[j])",
        "softmax + softmax",
    ),
    "quotients": (
        f"{TWO}{GATE}output = sum(j, {A} * v[j]) / 2 - (-sum(j, {B} * v[j]) * open[i])",
        "softmax + softmax",
    ),
    "three": (
        f"{TWO}{LAM}{GATE}weight = open[i] * {A} - lam * {B} + 0.25 * {C}",
        "softmax + softmax + softmax",
    ),
    "sinks": (
        f"{TWO}param s[h] = 0.3\nmask j <= i - 3\n"
        "weight = softmax(score, sink=s) - 0.3 * softmax(dot(q2[i], k2[j]), sink=-s)",
        "softmax + softmax",
    ),
    "element-wise": (
        f"{LAM}mask j <= i + 2\nweight = (1 - lam) * {A} + lam * tanh(score) + relu(score) / N",
        "softmax + weight",
    ),
    "vectors of the row over channels": (
        f"{LAM}axis r\nquery a[r]\nkey c[r]\nscore = sum(r, tanh(a[i] + c[j]))\n"
        f"weight = {A} - lam * softmax(2 * score)",
        "softmax + softmax",
    ),
    "a column's factor": (
        f"{TWO}input open[b, h, j]\nweight = ({A} + {B}) * sigmoid(open[j])",
        "softmax + softmax",
    ),
    "a gate": (f"{TWO}{LAM}input open[b, i, e]\nweight = {A} - lam * {B}\ngate = open[i]",
               "softmax + softmax"),
    "the same softmax twice": (
        f"{TWO}{LAM}weight = {A} + lam * ({A} - {B})",
        "softmax + softmax",
    ),
    "documents": (
        f"{TWO}{LAM}input doc[b, n]: int\nmask doc[i] == doc[j]\nweight = {A} - lam * {B}",
        "softmax + softmax",
    ),
    "bounded": (
        f"{LAM}weight = softmax(5 * tanh(score)) - lam * softmax(2 * tanh(score))",
        "softmax + softmax",
    ),
    "log-sum-exps": (
        f"{TWO}{LAM}mask j <= i + 2\nweight = {A} - lam * {B}\n"
        "return one[b, h, i] = logsumexp(j, score)\n"
        "return two[b, h, i] = logsumexp(j, dot(q2[i], k2[j]))",
        "softmax + softmax",
    ),
}  # fmt: skip

# What stays apart.
APART = {
    "other values": (
        f"{TWO}output = sum(j, {A} * v[j]) - sum(j, {B} * tanh(v[j]))",
        ["vector ij softmax", "vector ij softmax"],
    ),
    "one is wanted alone": (
        f"{TWO}let one[i] = sum(j, {A} * v[j])\noutput = one - sum(j, {B} * v[j])\n"
        "return alone[b, h, i, e] = one",
        ["vector ij softmax", "vector ij softmax"],
    ),
    "no softmax": (
        f"{TWO}output = sum(j, tanh(score) * v[j]) - sum(j, relu(score) * v[j])",
        ["vector ij", "vector ij"],
    ),
    "one of every channel": (
        f"{TWO}query c[e]\nkey c2[e]\n"
        f"output = sum(j, softmax(tanh(c[i] + c2[j])) * v[j]) - sum(j, {B} * v[j])",
        ["vector ij softmax", "vector ij softmax"],
    ),
    "parts merged by their log-sum-exps": (
        f"{TWO}let one[i] = logsumexp(j, score)\nlet two[i] = logsumexp(j, dot(q2[i], k2[j]))\n"
        f"output = sigmoid(one - two) * sum(j, {A} * v[j])"
        f" + sigmoid(two - one) * sum(j, {B} * v[j])",
        ["vector ij softmax", "vector ij softmax"],
    ),
    "a factor of channels": (
        f"{TWO}input open[b, i, e]\noutput = open[i] * sum(j, {A} * v[j]) - sum(j, {B} * v[j])",
        ["vector ij softmax", "vector ij softmax"],
    ),
}


@pytest.mark.parametrize("name", JOINED)
def test_one_pass_adds_up_several_weights(name: str) -> None:
    text, weights = JOINED[name]
    assert shown(fused(text)) == [f"vector ij {weights}"]


@pytest.mark.parametrize("name", APART)
def test_what_differs_in_more_than_weights_stays_apart(name: str) -> None:
    text, passes = APART[name]
    assert shown(fused(text)) == passes


@pytest.mark.parametrize("case", [PLAIN, SELF, EMPTY], ids=["plain", "self", "empty"])
@pytest.mark.parametrize("name", JOINED)
def test_one_pass_gives_what_is_defined(name: str, case: Case) -> None:
    outcome = hold(fused(JOINED[name][0]), case, "cpu")
    assert not outcome.problems, outcome.problems


def test_many_products_take_several_passes() -> None:
    """Their operands would not fit a tile."""
    names = [f"{kind}{n}[r{n}]" for n in range(5) for kind in ("query x", "key y")]
    head = "".join(f"axis r{n}\n" for n in range(5)) + "\n".join(names)
    total = " + ".join(f"softmax(dot(x{n}[i], y{n}[j]))" for n in range(5))
    assert len(fused(f"{head}\nweight = {total}").plan.passes) == 5


@pytest.mark.parametrize("name", ["differential", "positional_mixture", "pattern_override"])
def test_specs_of_the_library_take_one_sweep(name: str) -> None:
    """The gradient of all weights is one product, and so is that of the values."""
    attention = attnspec.load(name)
    assert len(attention.plan.passes) == 1
    for kernel in ("backward_rows", "backward_columns"):
        loops = _loops(attention, kernel)
        assert loops
        for body in loops:
            assert body.count("dp = dot(") == 1
            assert body.count(", d_out, d_u_value)") == (kernel == "backward_columns")
            assert body.count("u_value = load_tile(") == (kernel == "backward_rows")


def _loops(attention: Attention, kernel: str) -> list[str]:
    """The loops over tiles of a kernel."""
    source = attention.source
    start = source.index(f"def {kernel}(")
    text = source[start : source.index("\n\n\n", start)]
    return text.split("for place in ")[1:]


def test_what_a_mask_of_keys_leaves_is_summed_once_for_all_rows() -> None:
    """The uniform part and how many keys there are need no pass."""
    attention = attnspec.load("relaxed")
    assert shown(attention) == ["vector ij softmax"]
    text = "input keep[b, j]: bool\nmask keep[j]\nmask j <= i\noutput = mean(j, v[j])"
    assert sorted(shown(fused(text))) == ["number ij", "vector ij"]


def test_no_softmax_counts_for_a_row_without_a_pair() -> None:
    attention = fused(f"{TWO}mask j < i\nweight = {A} - 0.5 * {B}")
    q, k, v = (torch.randn(1, 1, 5, 4) for _ in range(3))
    out, _ = attention(q, k, v, q2=q, k2=k, extras=True)
    assert torch.equal(out[:, :, 0], torch.zeros(1, 1, 4))


def test_a_coefficient_of_zero_has_a_gradient() -> None:
    """It is the softmax's own output, which is saved whatever it is multiplied by."""
    attention = fused(f"{TWO}{LAM}weight = {A} - lam * {B}")
    q, k, v = (torch.randn(1, 1, 5, 4, dtype=torch.float64) for _ in range(3))
    lam = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    q2 = k.flip(2)
    attention(q, k, v, q2=q2, k2=k, lam=lam).sum().backward()
    expected = -((q2 @ k.mT).softmax(-1) @ v).sum()
    assert lam.grad is not None
    torch.testing.assert_close(lam.grad.sum(), expected)
