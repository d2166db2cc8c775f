"""Specs that were once compiled wrongly, each held against the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import attnspec
from attnspec.codegen import finite
from attnspec.runtime.api import Attention
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

SIZES = (("b", 2), ("h", 4), ("heads", 2), ("i", 33), ("j", 33), ("d", 4), ("e", 6))
PLAIN = Case(SIZES, 0, 0, "float32", "contiguous", "normal", 7)


def fused(text: str) -> Attention:
    """The compiled spec; kernels must cover it."""
    attention = attnspec.compile(f"attention a\n{text}")
    assert attention.plan.passes, attention.plan.stages
    return attention


def held(text: str, case: Case = PLAIN) -> None:
    """Hold one case on the CPU default."""
    outcome = hold(fused(text), case, "cpu")
    assert not outcome.problems, outcome.problems


def test_host_arithmetic_is_at_least_float32() -> None:
    text = "score = dot(rmsnorm(q[i]), rmsnorm(k[j])) / sqrt(D)"
    held(text, replace(PLAIN, dtype="float16", fill="zeros"))


def test_a_square_beyond_half_precision() -> None:
    attention = fused("score = dot(rmsnorm(q[i]), k[j])")
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 20, 4, generator=generator) for _ in range(3))
    half: dict[str, Any] = {"q": (400 * q).half(), "k": k.half(), "v": v.half()}
    got, want = attention(**half, backend="cpu"), attention.reference(**half)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=5e-3)


def test_what_no_query_sees_may_be_anything() -> None:
    held("mask j <= i and j % 7 != 3", replace(PLAIN, fill="unseen_nan"))


def test_what_no_query_sees_in_a_sum_over_channels_of_what_the_host_makes() -> None:
    text = "input c[b, h, j]\nmask j <= i and j % 7 != 3\n"
    text += "score = -sum(d, abs(q[i, d] - c[j] * k[j, d]))"
    held(text, replace(PLAIN, fill="unseen_nan"))


def test_a_count_of_the_queries_own_tensor_read_at_a_key() -> None:
    text = "require M == N\nindex u = j\ninput z[b, j]: int\n"
    text += "let c[i] = sum(u, 1, where=z[u] == z[i])\nweight = sigmoid(score) * c[j]"
    for seed in range(6):  # of which some give z for queries and keys apart
        held(text, replace(PLAIN, seed=seed))


def test_a_gate_of_two_factors() -> None:
    held("input r[b, i]\nparam s = 0.5\noutput = r[i] * s * sum(j, weight * v[j])")


def test_leaky_relu_without_a_slope() -> None:
    held("score = leaky_relu(dot(q[i], k[j]))")


def test_leaky_relu_of_a_row_without_a_slope() -> None:
    held("input r[b, i]\nscore = dot(q[i], k[j]) * leaky_relu(r[i])")


@pytest.mark.parametrize("rest", ["", "gate = sigmoid(r[i])", "output = sum(j, weight * v[j]) + 1"])
def test_a_returned_log_sum_exp_is_the_saved_one(rest: str) -> None:
    lse = "return lse[b, h, i] = logsumexp(j, score)"
    held(f"input r[b, i]\nscore = dot(q[i], k[j]) * r[i]\n{lse}\n{rest}")


def test_a_log_sum_exp_over_everything_is_not_that_under_the_mask() -> None:
    held(
        "mask j <= i\nlet some[i] = logsumexp(j, dot(q[i], k[j]), where=j < 3)\n"
        "score = dot(q[i], k[j])\nreturn z[b, h, i] = where(i < 3, 0, some[i])"
    )


def test_an_output_that_uses_the_sum_twice() -> None:
    held("output = rmsnorm(sum(j, weight * value))")


def test_an_epilogue_over_a_grid() -> None:
    text = "grid y, x\nparam u[h, e] = 0.1\nmask abs(i.y - j.y) <= 1\n"
    held(f"{text}output = sum(j, weight * v[j]) + u")


def test_bounds_with_a_least_or_greatest_position() -> None:
    held("mask min(i, 33) <= j + 1\nmask max(j, 5) <= i + 16")


def test_the_derivative_of_a_power_of_a_number() -> None:
    held("score = 2 ** -abs(dot(q[i], k[j]))")


def test_a_returned_sum_of_keys_has_every_head() -> None:
    held("return total[b, h, d] = sum(j, k[j])")


def test_a_returned_value_has_every_axis() -> None:
    held("input r[i]\nreturn seen[b, h, i] = r[i]")


def test_a_weight_that_is_no_softmax_returns_no_log_sum_exp() -> None:
    held("input c[b, j]\nweight = softmax(score) * c[j]")


@pytest.mark.parametrize(
    "text",
    [
        "input f: float = 0.3\ngate = f",
        "input f: float = 0.3\nweight = softmax(score, sink=tanh(f))",
        "input f: float = 0.3\nscore = leaky_relu(dot(q[i], k[j]) * f, 0.3)",
        "score = where(j < i, 0.1, 0.3) * dot(q[i], k[j])",
        "input w[b, i]\nscore = where(w[i] > 0, 0.1, 0.3) * dot(q[i], k[j])",
    ],
)
def test_numbers_are_as_exact_as_tensors(text: str) -> None:
    held(text, replace(PLAIN, dtype="float64"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_without_a_pair_is_0_whatever_its_sink(dtype: str) -> None:
    text = "axis p\nparam learned[h, p, d]\nmask i >= 20 and j <= i\n"
    text += "weight = softmax(score, sink=logsumexp(p, dot(q[i], learned)))"
    held(text, replace(PLAIN, dtype=dtype, fill="nan_query"))
    held(text.replace("i >= 20 and ", ""), replace(PLAIN, dtype=dtype, fill="nan_query"))


def test_a_pass_without_a_gradient_beside_one_that_has_a_gradient() -> None:
    text = "input level[h, j]\nmask j <= i or level[j] > 0\n"
    held(text + "output = sum(j, weight * v[j]) - mean(j, v[j])")


def test_a_sink_that_is_a_number_of_the_call_under_a_softmax_over_the_queries() -> None:
    text = "input low: float = 0.8\nmask j <= i + 2\nweight = softmax(score, over=i, sink=low)\n"
    held(text + "output = none\nreturn map[b, h, i, j] = weight")


def test_channels_as_many_as_rotated_ones_are_even() -> None:
    sizes = tuple((n, 7 if n in ("d", "e") else s) for n, s in SIZES)
    held("gate = silu(q[i, e])\nscore = dot(rope(q[i], i), k[j])", replace(PLAIN, sizes=sizes))


def test_what_a_range_shows_needs_no_arithmetic_over_many_facts() -> None:
    held(
        "input keep[h, n]: bool\ninput a: int = 1 where 0 < a < 90\n"
        "input b2: int = 33 where 0 < b2 < 90\ninput c: int = 3 where 0 < c < 90\n"
        "input pair[i, j]\nparam table[h, 12] = 0.1\nscore = pair[i, j] + table[(i + 2 * j) % 12]\n"
        "mask ((j - i <= 0 or keep[i] == keep[j])) and (not (j % a <= i % a))\n"
        "mask (j % b2 != 0) and ((j - i) // c <= 1)"
    )


def test_a_map_whose_weights_are_divided_by_the_sum_of_an_empty_row() -> None:
    text = "mask j > i + 3\nlet won = sigmoid(score)\nweight = won / sum(j, won)\n"
    held(text + "output = none\nreturn map[b, h, i, j] = weight")


def test_a_log_sum_exp_whose_coordinates_a_pass_has_written_out() -> None:
    text = "grid y, x\nmask j <= i\nscore = dot(q[i], k[j]) * where(i.y == j.y, 1, 0.5)\n"
    sizes = (*SIZES, ("i.y", 3), ("i.x", 11))
    case = replace(PLAIN, sizes=tuple(x for x in sizes if x[0] not in ("i", "j")))
    held(text + "output = none\nreturn mass[b, j] = mean(h, i, weight)", case)


def test_a_pass_of_more_operands_than_an_operation_takes_has_no_kernel() -> None:
    inputs = "".join(f"input x{n}[b, n]\n" for n in range(30))
    terms = " + ".join(f"tanh(x{n}[i] * x{n}[j])" for n in range(30))
    f = attnspec.compile(f"attention a\n{inputs}mask j <= i\nscore = dot(q[i], k[j]) + {terms}")
    assert any("operands and numbers, of at most" in stage.why for stage in f.plan.stages)
    q, x = torch.randn(1, 1, 4, 4), torch.randn(1, 4)
    given: dict[str, Any] = {f"x{n}": x for n in range(30)}
    assert f(q, q, q, **given).shape == q.shape


def test_a_norm_of_vectors_turned_by_a_distance() -> None:
    held("mask j <= i\nscore = -norm(rope(q[i], i - j) - k[j])")


def test_a_long_line_that_is_no_python() -> None:
    part = "tanh(dot(q[i], (k[j] + 0.5 * k[j - 1, pad=0]))) / sqrt(D)"
    held(f"score = {part} + 0.1 * {part} * sigmoid(i - j)")


def test_real_numbers_among_the_limits_of_ranges() -> None:
    text = "input first[b, n]: bool\ninput reach: float = 2.25\n"
    text += "let part[n] = cumsum(n, where(first[n], 1, 0))\n"
    held(f"{text}mask abs(i - j) * 0.5 < reach\nmask part[j] <= part[i]")


NOBODY = {  # 0.9 ** amax of nothing, and 1 / 0, at a key that no query sees, a query that sees none
    "factor of a key": "weight = softmax(score) * 0.9 ** far[j]",
    "value": "value = v[j] * 0.9 ** far[j]",
    "key": "score = dot(q[i], k[j] * 0.9 ** far[j])",
    "sum over channels": "weight = softmax(score) * dot(k[j], k[j] * 0.9 ** far[j])",
    "key of length 0": "value = v[j] * rsqrt(norm2(k[j]))",
    "factor of a query": "weight = softmax(score) * 0.9 ** near[i]",
    "value of a query": "value = v[j] * 0.9 ** near[i]",
    "query": "score = dot(q[i] * 0.9 ** near[i], k[j])",
    "gate": "gate = 0.9 ** near[i]",
    "square": "let far_off[j] = rsqrt(norm2(k[j]))\nvalue = v[j] * (far_off[j] * far_off[j])",
    "root": "value = v[j] * sqrt(norm2(k[j]) - 1e-9)",
    "factor of one of two": "weight = softmax(score) - 0.9 ** near[i] * softmax(0.5 * score)",
    "factor of a term": "value = v[j] - 0.9 ** near[i]",
    "sum of a row": "return z[b, h, i] = 0.9 ** near[i] * sum(j, score)",
}


@pytest.mark.parametrize("name", NOBODY)
def test_what_nobody_reads_has_derivative_0_however_large(name: str) -> None:
    text = (
        "mask j <= i and j % 3 != 1 and i % 3 != 2\n"
        "let far[j] = amax(i, dot(q[i], k[j]))\nlet near[i] = amax(j, dot(q[i], k[j]))\n"
    )
    attention = fused(f"{text}{NOBODY[name]}\n")
    given = [torch.randn(1, 1, 6, 4, dtype=torch.float64) for _ in range(3)]
    given[1][:, :, 4] = 0
    found = []
    for backend in ("cpu", "dense"):
        leaves = [x.clone().requires_grad_() for x in given]
        y, extras = attention(*leaves, extras=True, backend=backend)
        sums = [torch.where(x.isfinite(), x, 0).sum() for x in (y, *extras.values())]
        found.append([y, *torch.autograd.grad(sums, leaves)])
    torch.testing.assert_close(*found, equal_nan=True)
    assert all(x.isfinite().all() for x in found[0][1:])


def test_what_is_made_of_itself_over_and_over_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = []
    plain = finite._has_pole

    def noted(*args: Any) -> bool:
        looked.append(args)
        return plain(*args)

    monkeypatch.setattr(finite, "_has_pole", noted)
    made = [f"let a{n + 1}[j] = tanh(a{n}[j]) * a{n}[j]\n" for n in range(12)]
    fused(f"let a0[j] = norm2(k[j])\n{''.join(made)}value = v[j] * a12[j]\n")
    assert len(looked) < 2000


def test_products_of_powers_are_products_of_matrices() -> None:
    text = "axis r = 3\nparam w[h, d, r] = 0.1\nscore = dot(exp(q[i]) @ w, k[j] @ w)\n"
    assert fused(text).source.count("torch.einsum") == 2


def test_what_a_zero_is_multiplied_by_on_the_host_has_a_derivative() -> None:
    attention = attnspec.compile(
        "attention a\ninput x[b, h, i]\nparam s[h]\noutput = none\n"
        "return z[b, h, i] = s * exp(x[i])\n"
    )
    x = torch.randn(1, 1, 5, dtype=torch.float64, requires_grad=True)
    s = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    z = attention(x=x, s=s, extras=True)[1]["z"]
    [first] = torch.autograd.grad(z.sum(), x, create_graph=True)
    [mixed] = torch.autograd.grad(first.sum(), s)
    torch.testing.assert_close(mixed, x.detach().exp().sum()[None])


def test_what_a_sink_leaves_times_a_vector_of_the_row() -> None:
    text = "param s[h] = 0.3\nquery u[e]\nmask j <= i\nweight = softmax(score, sink=s)\n"
    held(f"{text}value = v[j] - u[i]")


@pytest.mark.parametrize("place", ["j", "min(j + 1, N - 1)", "i - i % 3"])
def test_a_mask_of_heads_makes_what_it_reduces_one_of_heads(place: str) -> None:
    text = "input far[h]: int\ninput pair[b, i, j]\nrequire M == N\nmask i - far < j\n"
    text += "let stat[i] = mean(j, pair[i, j])\nweight = sigmoid(score) / N\n"
    held(f"{text}score = dot(q[i], k[j]) - max(stat[{place}], -3)")


@pytest.mark.parametrize("weight", ["softmax(far)", "tanh(far)"])
def test_what_another_head_reduces_is_of_its_own_mask(weight: str) -> None:
    text = "input back[h]: int\ninput pair[b, i, j]\nindex g = h\nparam mix[h, g] = 0.25\n"
    text += "require M == N\nmask i - back < j\nlet stat[i] = mean(j, pair[i, j])\n"
    text += f"let far[i, j] = score - stat[i - i % 3]\nlet P[i, j] = {weight}\n"
    held(f"{text}weight = sum(g, mix * P[i, j, h=g])")


def test_rows_read_at_computed_positions_begin_at_zero() -> None:
    text = "let stat[i] = mean(j, dot(q[i], k[j]))\nscore = dot(q[i], k[j]) - stat[i - i % 2]\n"
    held(text, replace(PLAIN, q_start=9, k_start=3))
