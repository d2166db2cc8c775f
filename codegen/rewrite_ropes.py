"""Rotary embeddings at positions that belong to a pair, as functions of its channels.

A rotation by p turns two channels (x, y) into (x cos - y sin, y cos + x sin) at an angle p times
the frequency of the two. So a product of a vector turned by p and one turned by p' is a sum over
pairs of channels, of what does not depend on positions times the cosine and the sine of the angle
of p - p' alone. Where p and p' belong to one token each, the host turns the vectors instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attnspec.codegen.terms import ONE, factors_in, times
from attnspec.codegen.token_axes import tokens
from attnspec.dsl.analysis.positions import outside, rebuild
from attnspec.dsl.ast import Axis, Contract, Expr, Kind, Reduce, Role, Rope, Spec
from attnspec.dsl.build import add, apply, div, index, lit, mul, neg, size, sub, substitute


def with_ropes(spec: Spec) -> Spec:
    """`spec` with every rotation at a position of a pair written as arithmetic of channels; where
    that is not possible it stays."""
    made = _Ropes(spec)
    defs = tuple(replace(d, expr=made.visit(d.expr)) for d in spec.defs)
    return replace(outside(spec, made.visit), axes=made.spec.axes, defs=defs)


@dataclass(slots=True)
class _Ropes:
    """Adds axes of frequencies to `spec`."""

    spec: Spec

    def visit(self, expr: Expr) -> Expr:
        """`expr` without rotations at positions of a pair."""
        before = self.spec
        try:
            if isinstance(expr, Contract) and any(map(self._of_pair, self._turned(expr))):
                return self.visit(self._product(expr))
            if isinstance(expr, Rope) and self._of_pair(expr):
                return self.visit(self._channel(expr))
        except ValueError:  # a vector that cannot be read at a computed channel
            self.spec = before
        return rebuild(expr, self.visit)

    def _of_pair(self, rope: Rope) -> bool:
        return len(tokens(self.spec, rope.free)) > 1

    def _turned(self, expr: Contract) -> list[Rope]:
        """The rotations among the factors of a product over their channels alone."""
        factors = (*factors_in(expr.left), *factors_in(expr.right))
        return [x for x in factors if isinstance(x, Rope) and expr.axes == (x.axis,)]

    def _product(self, expr: Contract) -> Expr:
        """A product of a vector that is turned and another one, turned or not, as a sum over
        frequencies."""
        factors = [*factors_in(expr.left), *factors_in(expr.right)]
        one, *more = self._turned(expr)
        rest = [x for x in factors if x is not one]
        other = more[0] if len(more) == 1 and _alike(one, more[0]) else None
        angles = one.positions
        if other is not None:
            angles = tuple(map(sub, one.positions, other.positions))
            rest = [other.body if x is other else x for x in rest]
        elif more:  # at speeds of its own
            return Contract(expr.axes, self._channel(one), times(rest), kind=Kind.FLOAT)
        inside = [x for x in rest if one.axis in x.free]
        outside = [x for x in rest if one.axis not in x.free]
        return times([*outside, self._summed(one, times(inside or [ONE]), angles)])

    def _summed(self, rope: Rope, body: Expr, angles: tuple[Expr, ...]) -> Expr:
        """The product of a vector turned by `angles` and one that is not, group by group."""
        half = self._half(rope)
        found: list[Expr] = []
        for group, angle in enumerate(angles):
            (x, y), (v, w) = (self._both(z, rope.axis, half, group) for z in (rope.body, body))
            turn = mul(angle, self._frequency(rope, index(half), size(half)))
            level = mul(add(mul(x, v), mul(y, w)), apply("cos", turn))
            across = mul(sub(mul(x, w), mul(y, v)), apply("sin", turn))
            found.append(Reduce("sum", (half,), add(level, across), kind=Kind.FLOAT))
        return found[0] if len(found) == 1 else apply("add", *found)

    def _half(self, rope: Rope) -> str:
        """The axis of frequencies of a rotation."""
        parts = 2 * len(rope.positions)
        name = f"{rope.axis}.{parts}"
        length = apply("floordiv", size(rope.axis), lit(parts))
        axis = Axis(name, Role.CHANNEL, size=length)
        if axis not in self.spec.axes:
            self.spec = replace(self.spec, axes=(*self.spec.axes, axis))
        return name

    def _both(self, body: Expr, axis: str, half: str, group: int) -> Iterator[Expr]:
        """The two channels of a frequency; an index alone would mean all channels there are."""
        for place in (2 * group, 2 * group + 1):
            at = add(index(half), mul(lit(place), size(half)))
            yield substitute(body, {axis: at})

    def _frequency(self, rope: Rope, place: Expr, count: Expr) -> Expr:
        """By what angle a position turns the channels at `place` of `count`."""
        return apply("pow", rope.base, neg(div(place, count)))

    def _channel(self, rope: Rope) -> Expr:
        """One channel of a turned vector."""
        here, half = index(rope.axis), size(self._half(rope))
        inside = apply("mod", here, mul(lit(2), half))
        first = apply("lt", inside, half)
        other = add(here, apply("where", first, half, neg(half)))
        angle = rope.positions[-1]
        for group, position in reversed(list(enumerate(rope.positions[:-1], 1))):
            before = apply("lt", here, mul(lit(2 * group), half))
            angle = apply("where", before, position, angle)
        turn = mul(angle, self._frequency(rope, apply("mod", inside, half), half))
        across = substitute(rope.body, {rope.axis: other})
        sine = mul(apply("where", first, neg(ONE), ONE), apply("sin", turn))
        return add(mul(rope.body, apply("cos", turn)), mul(across, sine))


def _alike(one: Rope, other: Rope) -> bool:
    """Whether two rotations turn the same channels at the same speeds."""
    alike = one.axis, len(one.positions), one.base
    return alike == (other.axis, len(other.positions), other.base)
