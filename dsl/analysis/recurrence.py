"""The normal form of a recurrence: S[t] = A S[t - 1] + write, with A read off the step."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.dsl.ast import Apply, Contract, Expr, Index, Literal, Read, Spec, State, walk
from attnspec.dsl.build import apply, lit, substitute
from attnspec.dsl.formula import formula

_MOST_TERMS = 16


class Unread(Exception):
    """No normal form is found."""


@dataclass(frozen=True, slots=True)
class NormalForm:
    """`shape` says what A is; `shown` is the step's part that carries the state."""

    shape: str
    shown: str


@dataclass(frozen=True, slots=True)
class _Part:
    """A summand of the step: `factors` times the old state (`carries`), the old state contracted
    with `vector` over `axis`, or (neither) a part of the write."""

    factors: tuple[Expr, ...]
    carries: bool = False
    vector: Expr | None = None
    axis: str = ""

    def times(self, factor: Expr) -> _Part:
        return _Part((*self.factors, factor), self.carries, self.vector, self.axis)


def normal_form(spec: Spec, state: State) -> NormalForm:
    """The form of one state's step; `Unread` where it is not linear in the state alone."""
    parts = _Linear(spec, state).parts(state.step)
    old = [p for p in parts if p.carries or p.vector is not None]
    own = set(state.axes) - {"b", "h", state.time}
    diagonal: set[str] = set()
    for part in old:
        diagonal |= {axis for f in part.factors if part.carries for axis in f.free & own}
    if len(diagonal) > 1 or any(f.free - set(state.axes) for p in old for f in p.factors):
        raise Unread
    deltas = [p for p in old if p.vector is not None]
    if len(deltas) > 1 or not old:
        raise Unread
    scale = f"diagonal over {diagonal.pop()}" if diagonal else "scalar"
    if all(isinstance(f, Literal) for p in old for f in p.factors):
        scale = "constant"
    shape = f"S <- A S + write, A {scale}"
    if deltas:
        shape += f", minus rank one (delta rule) over {deltas[0].axis}"
    return NormalForm(shape, " + ".join(_shown(state.name, part) for part in old))


def _shown(name: str, part: _Part) -> str:
    factors = [formula(f) for f in part.factors]
    if part.vector is not None:
        return " * ".join([*factors, f"sum({part.axis}, {formula(part.vector)} * {name})"])
    return " * ".join([*factors, name])


class _Linear:
    """A step as a sum of parts, definitions over one token written out."""

    def __init__(self, spec: Spec, state: State) -> None:
        self.spec = spec
        self.state = state

    def parts(self, expr: Expr) -> list[_Part]:
        """The summands of `expr`."""
        if not self._uses_state(expr):
            return [_Part((expr,))]
        match expr:
            case Read(name=name, index=places) if name == self.state.name:
                return [self._old(places)]
            case Read(name=name, index=places):
                return self.parts(self._written_out(name, places))
            case Apply(op="add", args=args):
                found = [part for arg in args for part in self.parts(arg)]
            case Apply(op="sub", args=(a, b)):
                found = [*self.parts(a), *(p.times(lit(-1.0)) for p in self.parts(b))]
            case Apply(op="neg", args=(a,)):
                found = [p.times(lit(-1.0)) for p in self.parts(a)]
            case Apply(op="mul", args=(a, b)):
                a, b = (b, a) if self._uses_state(b) else (a, b)
                if self._uses_state(b):
                    raise Unread
                found = [p.times(b) for p in self.parts(a)]
            case Apply(op="div", args=(a, b)) if not self._uses_state(b):
                found = [p.times(apply("div", lit(1.0), b)) for p in self.parts(a)]
            case Apply(op="where", args=(c, a, b)) if not self._uses_state(c):
                found = [p.times(apply("where", c, lit(1.0), lit(0.0))) for p in self.parts(a)]
                found += [p.times(apply("where", c, lit(0.0), lit(1.0))) for p in self.parts(b)]
            case Contract(axes=(axis,), left=left, right=right):
                found = self._contracted(axis, left, right)
            case _:
                raise Unread
        if len(found) > _MOST_TERMS:
            raise Unread
        return found

    def _old(self, places: tuple[Expr, ...]) -> _Part:
        """The state one step ago, at its own channels."""
        back = "add" if self.state.reverse else "sub"
        for axis, place in zip(self.state.axes, places, strict=True):
            now = Index(axis, kind=place.kind)
            if place != (apply(back, now, lit(1)) if axis == self.state.time else now):
                raise Unread
        return _Part((), carries=True)

    def _written_out(self, name: str, places: tuple[Expr, ...]) -> Expr:
        found = self.spec.definition(name)
        if found is None:
            raise Unread
        try:
            return substitute(found.expr, dict(zip(found.axes, places, strict=True)))
        except ValueError:
            raise Unread from None

    def _contracted(self, axis: str, left: Expr, right: Expr) -> list[_Part]:
        """A contraction of the old state with a vector along one of its channels."""
        vector, inner = (right, left) if self._uses_state(left) else (left, right)
        if self._uses_state(vector):
            raise Unread
        found = []
        for part in self.parts(inner):
            within = [f for f in part.factors if axis in f.free]
            outside = tuple(f for f in part.factors if axis not in f.free)
            for factor in within:
                vector = apply("mul", vector, factor)
            if not part.carries or axis not in self.state.axes:
                raise Unread
            found.append(_Part(outside, vector=vector, axis=axis))
        return found

    def _uses_state(self, expr: Expr) -> bool:
        stack, seen = [expr], set()
        while stack:
            for node in walk(stack.pop()):
                if isinstance(node, Read) and node.name not in seen:
                    seen.add(node.name)
                    if self.spec.state(node.name) is not None:
                        return True
                    definition = self.spec.definition(node.name)
                    if definition is not None:
                        stack.append(definition.expr)
        return False
