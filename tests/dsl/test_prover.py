"""What the checker claims to prove is true: against evaluation on random expressions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attnspec.dsl import check_linear as lin
from attnspec.dsl.ast import Apply, Expr, Kind, Literal, Normalize, Reduce, Spec
from attnspec.dsl.build import apply, index, lit, rename, substitute
from attnspec.dsl.check import check
from attnspec.dsl.check_interval import TOP
from attnspec.dsl.check_known import Known
from attnspec.dsl.check_linear import Constraint, contradictory
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.check_witness import Point, evaluate
from attnspec.dsl.parse import parse

LENGTH = 4
AXES = ("i", "j", "u")
BINARY = ("add", "sub", "mul", "min", "max")
COMPARE = ("lt", "le", "gt", "ge", "eq")


def spec() -> Spec:
    return check(parse("attention x\nindex u = j\nscore = sum(u, 1.0 * j * u)\n"))[0]


SPEC = spec()


def value(expr: Expr, at: Mapping[str, int]) -> float:
    """`expr` with reductions over ranges of length LENGTH; the oracle of substitution."""
    match expr:
        case Reduce("sum", (axis,), body, where):
            total = 0.0
            for n in range(LENGTH):
                inner = {**at, axis: n}
                if where is None or value(where, inner):
                    total += value(body, inner)
            return total
        case Apply("where", (c, a, b)):
            return value(a, at) if value(c, at) else value(b, at)
        case Apply(op, args):
            known = [Literal(value(arg, at), kind=Kind.FLOAT) for arg in args]
            flat = Apply(op, tuple(known), kind=expr.kind)
            return float(evaluate(SPEC, flat, Point({}, {})))
        case _:
            return float(evaluate(SPEC, expr, Point({}, at)))


def binary(op: str, a: Expr, b: Expr) -> Expr:
    return apply(op, a, b)


def quotient(op: str, a: Expr, divisor: int) -> Expr:
    return apply(op, a, lit(divisor))


def grown(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    conditions = st.builds(binary, st.sampled_from(COMPARE), inner, inner)
    return st.one_of(
        st.builds(binary, st.sampled_from(BINARY), inner, inner),
        st.builds(quotient, st.sampled_from(("floordiv", "mod")), inner, st.integers(1, 5)),
        st.builds(lambda c, a, b: apply("where", c, a, b), conditions, inner, inner),
        st.builds(lambda a: apply("abs", a), inner),
        st.builds(lambda a: apply("neg", a), inner),
        st.builds(
            lambda a, lo, hi: apply("clamp", a, lit(lo), lit(lo + hi)),
            inner,
            st.integers(-4, 4),
            st.integers(0, 6),
        ),
    )


LEAVES = st.one_of(st.sampled_from(AXES).map(index), st.integers(-6, 6).map(lambda n: lit(n)))
INTS: st.SearchStrategy[Expr] = st.recursive(LEAVES, grown, max_leaves=8)


def summed(axis: str, body: Expr, where: Expr | None) -> Expr:
    return Reduce("sum", (axis,), body, where, kind=body.kind)


SUMS = st.builds(
    binary,
    st.sampled_from(BINARY),
    INTS,
    st.builds(
        summed,
        st.sampled_from(AXES),
        INTS,
        st.one_of(st.none(), st.builds(binary, st.sampled_from(COMPARE), INTS, INTS)),
    ),
)


# Substitution


@given(SUMS, st.dictionaries(st.sampled_from(AXES), INTS, max_size=2))
def test_substitution_is_evaluation(expr: Expr, values: dict[str, Expr]) -> None:
    at = {"i": 2, "j": 1, "u": 3}
    try:
        moved = substitute(expr, values)
    except ValueError:  # a capture: refused rather than wrong
        assume(False)
    inner = {**at, **{axis: int(value(e, at)) for axis, e in values.items()}}
    assert value(moved, at) == value(expr, inner)
    assert moved.free <= (expr.free - set(values)).union(*(e.free for e in values.values()))


@given(SUMS)
def test_substituting_nothing_changes_nothing(expr: Expr) -> None:
    assert substitute(expr, {"t": lit(1)}) is expr
    assert rename(expr, {axis: axis for axis in ("t", "n")}) == expr


@given(SUMS)
def test_renaming_back_is_the_identity(expr: Expr) -> None:
    assert rename(rename(expr, {"i": "t"}), {"t": "i"}) == expr


def test_capture_is_refused() -> None:
    total = summed("j", apply("mul", index("i"), index("j")), None)
    with pytest.raises(ValueError, match="captured"):
        substitute(total, {"i": index("j")})
    shared = Normalize("softmax", ("j",), apply("add", index("j"), index("u")), kind=Kind.FLOAT)
    with pytest.raises(ValueError, match="capture"):
        rename(shared, {"j": "u"})
    assert rename(shared, {"j": "t"}).free == {"t", "u"}
    with pytest.raises(ValueError, match="renamed"):
        substitute(shared, {"j": lit(0)})


def test_a_mask_moves_with_its_variables() -> None:
    masked = Reduce("sum", ("j",), index("j"), None, ("i", "j"), kind=Kind.INT)
    moved = rename(masked, {"i": "t"})
    assert isinstance(moved, Reduce)
    assert moved.mask == ("t", "j")
    assert rename(masked, {"j": "u"}) is masked


# Proofs


def points(axes: frozenset[str]) -> list[dict[str, int]]:
    names = sorted(axes)
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(range(LENGTH), repeat=len(names))
    ]


@given(INTS)
@settings(max_examples=150)
def test_ranges_hold(expr: Expr) -> None:
    found = Prover(SPEC).range(expr, Known())
    for at in points(expr.free):
        here = value(expr, at)
        assert found.lo <= here <= found.hi
        assert not (found.lo_open and here == found.lo)
        assert not (found.hi_open and here == found.hi)


@given(
    st.builds(binary, st.sampled_from(("lt", "le", "gt", "ge")), INTS, INTS),
    st.builds(binary, st.sampled_from(COMPARE), INTS, INTS),
)
@settings(max_examples=150)
def test_what_is_proved_is_true(goal: Expr, fact: Expr) -> None:
    assert isinstance(goal, Apply)
    prover = Prover(SPEC)
    known = prover.assume(prover.start(), fact)
    proved, impossible = prover.holds(goal, known), prover.impossible(known)
    for at in points(goal.free | fact.free):
        if value(fact, at):
            assert not impossible
            assert not proved or value(goal, at)


@given(st.builds(binary, st.sampled_from(COMPARE), INTS, INTS))
@settings(max_examples=100)
def test_a_fact_and_its_opposite_contradict(fact: Expr) -> None:
    assert isinstance(fact, Apply)
    if fact.op == "eq":
        return
    prover = Prover(SPEC)
    assert prover.impossible(prover.assume(prover.assume(Known(), fact), fact, truth=False))


def poly(terms: dict[lin.Monomial, int]) -> lin.Poly:
    return {monomial: Fraction(factor) for monomial, factor in terms.items() if factor}


@given(
    st.lists(
        st.tuples(st.lists(st.integers(-3, 3), min_size=3, max_size=3), st.booleans()),
        max_size=7,
    )
)
@settings(max_examples=150)
def test_a_contradiction_has_no_solution(rows: list[tuple[list[int], bool]]) -> None:
    constraints = [
        Constraint(poly({(): c, (0,): a, (1,): b}), strict) for (a, b, c), strict in rows
    ]
    solved = any(
        all(
            (a * x + b * y + c < 0) if strict else (a * x + b * y + c <= 0)
            for (a, b, c), strict in rows
        )
        for x in range(-5, 6)
        for y in range(-5, 6)
    )
    found = contradictory(constraints, lambda monomial: True, lambda steps: True)
    assert not (found and solved)


def test_integers_are_tightened() -> None:
    x = lin.atom(0)
    rows = [  # 1/3 < x < 2/3
        Constraint(lin.plus(lin.constant(Fraction(1, 3)), x, -1), True),
        Constraint(lin.plus(x, lin.constant(Fraction(2, 3)), -1), True),
    ]
    assert contradictory(rows, lambda monomial: True, lambda steps: True)
    assert not contradictory(rows, lambda monomial: False, lambda steps: True)


REAL = ["exp", "sigmoid", "tanh", "softplus", "logsigmoid", "silu", "gelu", "elu", "relu", "atan"]
FORMULAS = {
    "exp": math.exp,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "softplus": lambda x: math.log1p(math.exp(x)),
    "logsigmoid": lambda x: -math.log1p(math.exp(-x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "relu": lambda x: max(x, 0.0),
    "atan": math.atan,
}


@given(st.sampled_from(REAL), st.floats(-20, 20), st.floats(0, 10), st.floats(0, 1))
def test_functions_stay_in_their_ranges(op: str, low: float, width: float, part: float) -> None:
    x = low + part * width
    clamped = apply(
        "clamp",
        apply("mul", apply("sub", index("i"), index("j")), lit(1.5)),
        lit(low),
        lit(low + width),
    )
    found = Prover(SPEC).range(apply(op, clamped), Known())
    assert found != TOP or op == "leaky_relu"
    slack = 1e-12 * (1 + abs(FORMULAS[op](x)))
    assert found.lo - slack <= FORMULAS[op](x) <= found.hi + slack


def test_the_budget_ends() -> None:
    prover = Prover(SPEC)
    known = Known()
    for n in range(2, 30):
        pair = apply("lt", apply("mul", index("i"), lit(n)), index("j"))
        back = apply("gt", apply("mul", index("j"), lit(n)), apply("add", index("i"), lit(n)))
        known = prover.assume(known, apply("or", pair, back))
    assert not prover.holds(apply("eq", index("i"), index("j")), known)
    assert not prover.impossible(known)
