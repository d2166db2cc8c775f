"""The checked tree as text."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from attnspec.codegen import library
from attnspec.dsl.ast import Apply, Expr, Index, Kind, Literal, Normalize, Reduce, walk
from attnspec.dsl.check import check
from attnspec.dsl.formula import formula
from attnspec.dsl.parse import parse

I, J = (Index(axis, kind=Kind.INT) for axis in "ij")  # noqa: E741


def score(text: str) -> str:
    """The formula of the score of a spec."""
    spec = check(parse(f"attention x\n{text}\n"))[0]
    definition = spec.definition("score")
    assert definition is not None
    return formula(definition.expr)


@pytest.mark.parametrize(
    "text",
    [
        "i - (j - 1)",
        "i - j - 1",
        "i - (j + 1)",
        "(i + j) * 2.5",
        "i / (j + 1.0) / 2",
        "i / ((j + 1.0) / 2)",
        "-(i + j) * 1.5",
        "-i ** 2 * 0.5",
        "(-i) ** 2 * 0.5",
        "2.0 ** -j",
        "(2.0 ** i) ** j",
        "2.0 ** i ** j",
        "where(i < j and not (i == 3 or j <= 2), 1.0, 0.0)",
        "where((i < 3) == (j < 3), 1.0, 0.0)",
        "min(i, j, 3) * 1.0 + max(i % 4 // 2, 1)",
        "exp(-abs(i - j) / sqrt(N))",
    ],
)
def test_a_formula_is_written_as_it_was(text: str) -> None:
    assert score(f"score = {text}") == text


def test_axes_are_written_out() -> None:
    assert score("param w[h]\nscore = dot(q[i], k[j]) * w") == "sum(d, q[i, d] * k[j, d]) * w"
    assert score("grid y, x\nscore = i.y - j.x + N / GX") == "i.y - j.x + N / size(i.x)"
    assert score("index g = h\nparam w[h]\nscore = sum(g, w[h=g]) + h") == "sum(g, w[g]) + h"


def test_the_mask_is_seen_where_it_acts() -> None:
    text = "mask j <= i\nscore = logsumexp(j, q[i, 0] * 1.0)\nweight = relu(score)"
    assert score(text) == "logsumexp(j: q[i, 0] * 1.0)"
    every = "score = sum(j, k[j, 0], where=j < 3)"
    assert score(every) == "sum(j, k[j, 0], where=j < 3)"


def test_the_text_means_the_tree() -> None:
    """Python, whose precedence the language has, computes the same from the text."""
    rng = random.Random(5)

    def tree(depth: int) -> Expr:
        if depth == 0:
            leaves: list[Expr] = [I, J, Literal(rng.randrange(1, 9), kind=Kind.INT)]
            return rng.choice(leaves)
        op = rng.choice(["add", "sub", "mul", "floordiv", "mod", "neg", "pow2", "lt", "max"])
        if op == "neg":
            return Apply("neg", (tree(depth - 1),), kind=Kind.INT)
        if op == "pow2":
            two = Literal(2, kind=Kind.INT)
            return Apply("pow", (tree(depth - 1), two), kind=Kind.INT)
        if op == "lt":
            condition = Apply("lt", (tree(depth - 1), tree(depth - 1)), kind=Kind.BOOL)
            return Apply("where", (condition, tree(depth - 1), tree(depth - 1)), kind=Kind.INT)
        return Apply(op, (tree(depth - 1), tree(depth - 1)), kind=Kind.INT)

    def value(expr: Expr, at: dict[str, int]) -> int:
        match expr:
            case Literal(value=number):
                return int(number)
            case Index(axis=axis):
                return at[axis]
            case Apply(op="where", args=(c, a, b)):
                return value(a, at) if value(c, at) else value(b, at)
            case Apply(op=op, args=args):
                numbers = [value(arg, at) for arg in args]
                return int(_PYTHON[op](*numbers))
        raise AssertionError(expr)

    names = {"where": lambda c, a, b: a if c else b, "max": max}
    compared = 0
    for _ in range(400):
        expr = tree(rng.randrange(1, 5))
        at = {"i": rng.randrange(20), "j": rng.randrange(20)}
        try:
            expected = value(expr, at)
            found = eval(formula(expr), {**names, **at})  # noqa: S307 - our own text
        except ZeroDivisionError:
            continue
        assert found == expected, formula(expr)
        compared += 1
    assert compared > 200


_PYTHON: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "neg": lambda a: -a,
    "pow": lambda a, b: a**b,
    "lt": lambda a, b: a < b,
    "max": max,
}


@pytest.mark.parametrize("name", library.names())
def test_every_node_of_the_library_has_a_text(name: str) -> None:
    spec = check(parse(*library.find(name)))[0]
    wholes = [d.expr for d in spec.defs] + [s.step for s in spec.states]
    wholes += [e for e in (spec.mask, spec.output) if e is not None]
    for whole in wholes:
        for node in walk(whole):
            text = formula(node)
            assert text.isprintable()
            if isinstance(node, Reduce | Normalize):
                assert text.startswith(f"{node.op}(")
    assert math.prod(len(formula(whole)) for whole in wholes) > 0
