"""Every scalar function of the language in a score, with its derivative, in float64."""

from __future__ import annotations

import re

import pytest
from tests.codegen.test_regressions import fused

from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

SIZES = (("b", 1), ("h", 2), ("heads", 1), ("i", 9), ("j", 11), ("d", 3), ("e", 2))
CASE = Case(SIZES, 4, 2, "float64", "contiguous", "normal", 3)
FUNCTIONS = (
    "abs(x)", "min(x, r[i])", "max(x, r[i])", "min(x, 0.4, r[i])", "max(x, x)",
    "min(x, x)", "clamp(x, -0.5, 0.7)",
    "clamp(x, r[i], r[i] + 0.3)", "where(i > j, x, 2 * x)", "where(j > 3, x * x, r[i])",
    "x * floor(3 * r[i])", "x * ceil(3 * r[i])", "sqrt(2 + x * x)", "rsqrt(2 + x * x)",
    "exp(0.5 * x)", "exp2(0.5 * x)", "log(2 + x * x)", "log2(2 + x * x)", "log1p(x * x)", "sin(x)",
    "cos(x)", "atan(x)", "atan(5 * x)", "tanh(x)", "sigmoid(x)", "logsigmoid(x)", "softplus(x)",
    "relu(x)", "leaky_relu(x)", "leaky_relu(x, 0.2)", "leaky_relu(x, r[i])", "elu(x)", "silu(x)",
    "gelu(x)", "erf(x)", "sign(r[i]) * x", "stopgrad(x) * x", "x ** 3", "(2 + x * x) ** -2",
    "(2 + x * x) ** 0.5", "(1 + abs(r[i])) ** x", "2 ** x", "x / (2 + x * x)", "1 / (2 + x * x)",
    "-x", "x - r[i]", "r[i] - x", "x * r[i] * c[j]", "s * x", "x * table[(i + j) % 4]",
    "x + pair[i, j]", "x + c[j] * (i - j)", "x // 1 * 0 + x", "x % 3",
)  # fmt: skip
INPUTS = (
    "input r[b, i]",
    "input c[b, j]",
    "input pair[i, j]",
    "param s[h] = 0.4",
    "param table[h, 4] = 0.1",
)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("weight", ["softmax(score)", "score"])
def test_a_function_and_its_derivative(function: str, weight: str) -> None:
    used = [line for line in INPUTS if re.search(rf"\b{line.split()[1].split('[')[0]}\b", function)]
    score = re.sub(r"\bx\b", "dot(q[i], k[j])", function)
    text = "\n".join([*used, "mask j <= i + 3", f"score = {score}", f"weight = {weight}"])
    outcome = hold(fused(text), CASE, "cpu")
    assert not outcome.problems, outcome.problems
