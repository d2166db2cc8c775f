"""What the host keeps of one token's values, and what kernels compute again."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from tests.codegen.test_regressions import PLAIN, fused, held

import attnspec
from attnspec.codegen.keep import LOAD, PASS, SCALE, SUM, WEIGHTS, alike, weight
from attnspec.codegen.plan_types import Choice
from attnspec.codegen.tile import Op
from attnspec.dsl.ast import Kind
from attnspec.dsl.formula import formula
from attnspec.runtime.api import Attention


def choices(attention: Attention) -> dict[str, Choice]:
    """The choices of a plan by formula."""
    return {formula(x.expr): x for plan in attention.plan.passes for x in plan.choices}


def chosen(term: str, *inputs: str) -> dict[str, Choice]:
    """The choices of a score that adds `term` to the product."""
    lines = [*(f"input {line}" for line in inputs), f"score = dot(q[i], k[j]) / sqrt(D) + {term}"]
    return choices(fused("\n".join(lines)))


def leaves(attention: Attention) -> dict[str, bool]:
    """What the host makes for a plan, and whether it gets a gradient."""
    return {formula(x.operand.expr): x.grad for plan in attention.plan.passes for x in plan.leaves}


def test_a_comparison_is_computed_again() -> None:
    found = chosen("where(j < n0, 0.5, 0)", "n0[b]: int")["where(j < n0, 0.5, 0)"]
    assert not found.kept
    assert (found.recompute, found.keep) == (2, LOAD + PASS)


def test_a_logarithm_is_kept() -> None:
    found = chosen("log(c[j])", "c[b, j] where c > 0")["log(c[j])"]
    assert found.kept
    division = WEIGHTS["div"]  # the derivative is 1 / c
    assert found.recompute == WEIGHTS["log"] + division + LOAD + SUM + SCALE
    assert found.keep == LOAD + PASS + SUM


def test_what_occurs_twice_is_computed_once() -> None:
    held_back = "stopgrad(c[j]) * stopgrad(c[j])"
    found = chosen(f"where({held_back} > 0.5, c[j], -c[j])", "c[b, j]")
    (whole,) = found.values()
    # the product, its comparison, the choice and its sign; 1, -1 and their choice; one load
    assert whole.recompute == 1 + 1 + 2 + 1 + LOAD + SUM + SCALE


def test_a_gradient_that_reaches_two_leaves_is_added_up_twice() -> None:
    found = chosen("c[j] * e0[j]", "c[b, j]", "e0[b, j]")["c[j] * e0[j]"]
    assert found.recompute == 1 + 2 * (LOAD + SUM + SCALE)
    assert found.keep == LOAD + PASS + SUM


def test_numbers_of_a_head_cost_a_tile_nothing() -> None:
    tape = [Op("t0", "exp", ("u_c",), Kind.FLOAT, ""), Op("t1", "exp", ("u_e",), Kind.FLOAT, "j")]
    assert weight(tape) == WEIGHTS["exp"]
    found = choices(fused("param s[h] = 0.3\nscore = exp(s) * dot(q[i], k[j])"))["exp(s)"]
    assert not found.kept
    assert (found.recompute, found.keep) == (SUM, PASS + SUM)


def test_a_sign_is_no_part_of_what_is_kept() -> None:
    assert chosen("-c[j]", "c[b, j]") == {}
    assert set(chosen("-log(c[j])", "c[b, j] where c > 0")) == {"log(c[j])"}


def test_what_the_host_makes_of_keys_anyway_is_not_made_twice() -> None:
    """A sum over channels is made by the host: what is done to it costs no more there."""
    found = chosen("sin(norm2(k[j]))")
    assert [c.kept for c in found.values()] == [True]


def test_keys_are_not_spread_over_the_query_heads_that_share_them() -> None:
    text = "input c[b, j] where c > 0\nparam s[h] = 0.3\nscore = dot(q[i], k[j]) + log(c[j]) * s"
    attention = fused(text)
    assert set(leaves(attention)) == {"c[j]", "s"}
    held(text)


def test_what_lists_of_tiles_read_is_not_computed_again() -> None:
    attention = fused("input c[b, j]: int\nmask c[j] > 3\nscore = dot(q[i], k[j])")
    found = choices(attention)["c[j] > 3"]
    assert found.kept
    assert found.keep == LOAD


@pytest.mark.parametrize(
    ("condition", "same"),
    [
        ("c[j] > 0.5", True),
        ("c[j] + 1 > 0.5", True),
        ("2 * c[j] + 1 > 0.5", False),  # a fused multiply-add rounds once
        ("c[j] / 3 > 0.5", False),  # kernels divide to the last place or two
        ("exp(c[j]) > 0.5", False),
        ("floor(c[j]) > 2", False),  # 32 bits
        ("m0[j] % 3 == 1", True),
        ("j + 7 > m0[j]", True),
        ("m0[j] + 7 > j", False),  # 32 bits, where the tensor has them
        ("h0 + 7 > j", True),
    ],
)
def test_what_decides_on_pairs_is_the_same_number_everywhere(condition: str, same: bool) -> None:
    text = f"input c[b, j]\ninput m0[b, j]: int\ninput h0[b]: int\nmask {condition}"
    names = [n for n in ("c", "m0", "h0") if not re.search(rf"\b{n}\b", condition)]
    for name in names:
        text = re.sub(rf"input {name}\[.*\n", "", text)
    mask = attnspec.compile(f"attention a\n{text}", name="a").spec.mask
    assert mask is not None
    assert alike(mask) is same


def test_a_condition_that_rounds_stays_with_the_host_inside_a_score() -> None:
    found = chosen("where(2 * c[j] + 1 > 0.5, c[j], 0)", "c[b, j]")
    attention = fused(
        "input c[b, j]\nscore = dot(q[i], k[j]) + where(2 * c[j] + 1 > 0.5, i * c[j], 0)"
    )
    assert "2 * c[j] + 1 > 0.5" in leaves(attention)
    assert all(c.kept for c in found.values())


def test_a_leaf_that_only_decides_has_no_gradient() -> None:
    attention = fused("input c[b, j]\nscore = dot(q[i], k[j]) + where(c[j] > 0, i - j, 0)")
    assert leaves(attention) == {"c[j]": False}
    attention = fused("input c[b, j]\nscore = dot(q[i], k[j]) + where(c[j] > 0, c[j] * i, 0)")
    assert leaves(attention) == {"c[j]": True}


def test_a_prefix_is_no_tensor_of_every_key() -> None:
    attention = attnspec.load("prefix_lm")
    assert leaves(attention) == {"prefix": False}
    assert "j < u_prefix" in attention.source


@pytest.mark.parametrize("name", ["key_gated_score", "soft_key_mask"])
def test_no_logarithm_in_the_tile(name: str) -> None:
    source = attnspec.load(name).source
    calls = re.findall(r"^ *\w+ = (\S*log)\(", source, flags=re.MULTILINE)
    assert calls == ["safe_log"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "term",
    [
        "log(c[j])",
        "c[j] ** 2 * r[i]",
        "r[i] * log(c[j]) - log(r[i])",
        "where(r[i] > 1, log(r[i]), r[i]) + where(c[j] > 1, 2 * c[j], c[j])",
        "i * tanh(c[j]) * 0.01",
        "(r[i] + c[j]) / (1 + c[j] * c[j])",
    ],
)
def test_gradients_through_what_is_kept(term: str, dtype: str) -> None:
    names = [n for n in "rc" if f"{n}[" in term]
    inputs = [f"input {n}[b, {'i' if n == 'r' else 'j'}] where {n} > 0.1" for n in names]
    score = f"score = dot(q[i], k[j]) / sqrt(D) + {term}"
    held("\n".join([*inputs, "mask j <= i + 3", score]), replace(PLAIN, dtype=dtype))


def test_a_prefix_near_the_end_of_32_bits() -> None:
    """The positions that a head's integers are added to may be of 32 bits, the sum not."""
    text = "input reach[b]: int\nmask j < i + reach\nscore = dot(q[i], k[j])"
    attention = fused(text)
    q = torch.randn(1, 1, 20, 8)
    reach = torch.tensor([2**31 - 5], dtype=torch.int32)
    got, want = attention(q, q, q, reach=reach), attention.reference(q, q, q, reach=reach)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


def forms(text: str) -> dict[str, tuple[bool, int, int]]:
    """What decided on each function of a pair."""
    (plan,) = fused(text).plan.passes
    return {x.function: (x.expanded, x.whole, x.parts) for x in plan.branches[0].forms}


@pytest.mark.parametrize("op", ["elu", "gelu", "silu"])
def test_a_function_is_expanded_where_its_derivative_shares_parts(op: str) -> None:
    text = f"score = {op}(dot(q[i], k[j]) / sqrt(D))"
    expanded, whole, parts = forms(text)[op]
    assert expanded
    assert parts < whole
    held(text)
    shared = {"elu": "exp", "gelu": "erf", "silu": "sigmoid"}[op]
    source = re.sub(r" *#.*", "", fused(text).source)
    forward, rows, columns = source.split("@kernel")[1:4]
    assert f" {op}(" in forward
    for backward in (rows, columns):
        assert f" {op}(" not in backward
        assert backward.count(f" {shared}(") == 2  # in either loop, of full and of partial tiles


def test_a_weight_without_a_softmax_is_no_part_of_the_rows_loop() -> None:
    """Only the loop over rows for a tile of keys needs the weight beside its derivative."""
    text = "weight = silu(dot(q[i], k[j]))\noutput = sum(j, weight * v[j])"
    expanded, whole, parts = forms(text)["silu"]
    assert expanded
    assert whole - parts < WEIGHTS["silu"] + WEIGHTS["sigmoid"]
    held(text)


def test_no_form_but_a_safe_one() -> None:
    assert forms("score = softplus(dot(q[i], k[j])) + logsigmoid(dot(q[i], k[j]))") == {}
