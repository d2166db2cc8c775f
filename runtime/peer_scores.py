"""Masks and scores of a spec as functions of one pair, for FlexAttention and for dense tensors.

A function is a graph (torch.fx) over rows b, h, i, j, counted from 0: single numbers under `vmap`,
or tensors that broadcast against each other. What belongs to one token is evaluated by the
reference beforehand and read at the pair's place.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from attnspec.dsl import ast
from attnspec.dsl.operators import OPERATORS
from attnspec.runtime.axes import side
from attnspec.runtime.bind import Bound
from attnspec.runtime.peer_form import Unfit, inlined, over_pairs
from attnspec.runtime.reference import Evaluator

Value: TypeAlias = "fx.Node | bool | int | float"
# What a graph reads besides the pair: a tensor as it is, or the values of a node over its axes.
Source: TypeAlias = "Tensor | ast.Expr"

PLACES = ("b", "h", "i", "j")


@dataclass(frozen=True, slots=True)
class OfPairs:
    """A function of (dot product, b, h, i, j) and of what it reads besides, `sources`; `held` are
    those that were given over pairs."""

    graph: fx.GraphModule
    sources: tuple[Source, ...]
    held: tuple[Tensor, ...]

    def bound(self, evaluator: Evaluator) -> Callable[..., Tensor]:
        """The function of (dot product, b, h, i, j) alone, its sources as they are now."""
        graph = self.graph
        given = [x if isinstance(x, Tensor) else evaluator(x).tensor for x in self.sources]
        return lambda dot, b, h, i, j: graph(dot, b, h, i, j, *given)


def places(bound: Bound) -> tuple[Tensor, ...]:
    """Every row of b, h, i and j, laid out to broadcast against each other."""
    rows = (torch.arange(bound.sizes[axis], device=bound.device) for axis in PLACES)
    return tuple(x[(...,) + (None,) * (3 - n)] for n, x in enumerate(rows))


def of_pairs(
    spec: ast.Spec, bound: Bound, whole: ast.Expr, dot: ast.Expr | None, held: Mapping[int, Tensor]
) -> OfPairs:
    """`whole` as a function of one pair, `dot` being given; `Unfit` where there is none.

    `held` are values of nodes that are known for every pair, by the node's id.
    """
    builder = _Builder(spec, bound, dot, held)
    builder.graph.output(builder.value(whole))
    graph = fx.GraphModule({}, builder.graph)
    return OfPairs(graph, tuple(builder.sources.values()), tuple(held.values()))


class _Builder:
    def __init__(
        self, spec: ast.Spec, bound: Bound, dot: ast.Expr | None, held: Mapping[int, Tensor]
    ) -> None:
        self.spec, self.bound, self.held = spec, bound, held
        self.evaluator = Evaluator(spec, bound, bound.dtype)
        self.graph = fx.Graph()
        given = [self.graph.placeholder(name) for name in ("dot", *PLACES)]
        self.places = dict(zip(PLACES, given[1:], strict=True))
        self.values: dict[int, Value] = {} if dot is None else {id(dot): given[0]}
        self.sources: dict[str, Source] = {}
        self._last = given[-1]

    def value(self, node: ast.Expr) -> Value:
        node = inlined(self.spec, node)
        if id(node) not in self.values:
            self.values[id(node)] = self._value(node)
        return self.values[id(node)]

    def _value(self, node: ast.Expr) -> Value:
        if id(node) in self.held:
            return self._source(self.held[id(node)])
        match node:
            case ast.Literal(value=value):
                return value
            case ast.Size(of=of):
                return self.evaluator.sizes[of]
            case ast.Index(axis=axis) if axis in PLACES:
                return self._position(axis)
            case ast.Coord(axis=axis, along=along, grid=grid) if axis in PLACES:
                return self._coordinate(self._position(axis), along, grid)
            case ast.Apply(op=op, args=args, kind=kind):
                return self._apply(op, [self.value(x) for x in args], kind)
            case ast.Read(pad=None) if self.spec.decl(node.name) is not None:
                return self._argument(node)
        if over_pairs(self.spec, node):
            raise Unfit("it reads more of a pair than its positions and what its tokens have")
        if not node.free <= set(PLACES):
            raise Unfit("it reads tokens other than those of the pair")
        found = self.evaluator(node)
        if not found.dims and not found.tensor.requires_grad:
            number: bool | int | float = found.tensor.item()
            return number
        return self._read(self._source(node), [self.places[axis] for axis in found.dims])

    def _position(self, axis: str) -> Value:
        return self._from(self.places[axis], -self.bound.start(axis) if axis in "ij" else 0)

    def _coordinate(self, position: Value, along: str, grid: str) -> Value:
        own = "i" if self.spec.shared_grid else grid
        names = next(g.names for g in self.spec.grids if g.side == own)
        lengths = [self.bound.sizes[f"{own}.{name}"] for name in names]
        place = names.index(along)
        row = self._apply("floordiv", [position, math.prod(lengths[place + 1 :])])
        return self._apply("mod", [row, lengths[place]])

    def _argument(self, node: ast.Read) -> Value:
        """An argument, at any indices."""
        decl, spec = self.spec.decl(node.name), self.spec
        assert decl is not None
        if node.name in self.bound.scalars:
            return self.bound.scalars[node.name]
        sides = [side(spec, axis) for axis in decl.axes]
        given: Any = self.bound.tensors.get(node.name)
        if decl.form is ast.Form.CONST:
            given = torch.tensor(decl.values, device=self.bound.device)
        elif isinstance(given, tuple):  # for queries and for keys
            token = next(n for n, s in enumerate(sides) if s is not None)
            index = node.index[token]
            queries = isinstance(index, ast.Index) and side(spec, index.axis) == "i"
            given, sides[token] = (given[0], "i") if queries else (given[1], "j")
        rows: list[Value] = []
        for axis, index, own, size in zip(decl.axes, node.index, sides, given.shape, strict=True):
            row = self.value(index)
            if axis == "b" and size == 1:
                row = 0
            elif axis == "h" and size != self.evaluator.sizes["h"]:
                row = self._apply("floordiv", [row, self.evaluator.sizes["h"] // size])
            rows.append(row if own is None else self._from(row, self.bound.start(own)))
        return self._read(self._source(given), rows)

    def _source(self, source: Source) -> fx.Node:
        with self.graph.inserting_after(self._last):
            self._last = self.graph.placeholder(f"x{len(self.sources)}")
        self.sources[self._last.name] = source
        return self._last

    def _read(self, source: fx.Node, rows: Sequence[Value]) -> fx.Node:
        return self.graph.call_function(operator.getitem, (source, tuple(rows))) if rows else source

    def _from(self, row: Value, start: int) -> Value:
        return self._apply("sub", [row, start]) if start else row

    def _apply(self, op: str, args: list[Value], kind: ast.Kind = ast.Kind.INT) -> Value:
        function = _FUNCTIONS.get(op)
        if function is None:
            raise Unfit(f"`{op}` of a pair has no counterpart")
        if op == "floordiv" and args[1] == 1:
            return args[0]
        if any(isinstance(x, fx.Node) for x in args):
            return self.graph.call_function(function, tuple(args))
        number: bool | int | float = function(*(_exact(x, kind) for x in args)).item()
        return number


def _exact(number: Any, kind: ast.Kind) -> Tensor:
    """A number as a tensor that loses nothing in an operation that gives `kind`."""
    wide = isinstance(number, float) or (kind is ast.Kind.FLOAT and not isinstance(number, bool))
    return torch.tensor(number, dtype=torch.float64 if wide else None)


def _least(*xs: Any) -> Any:
    return reduce(lambda a, b: _clip(a, b, "max", torch.minimum), xs)


def _most(*xs: Any) -> Any:
    return reduce(lambda a, b: _clip(a, b, "min", torch.maximum), xs)


def _clip(a: Any, b: Any, bound: str, both: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The lesser or greater of a number or tensor and another, one of them a tensor."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return both(a, b)
    tensor, number = (a, b) if isinstance(a, Tensor) else (b, a)
    return torch.clamp(tensor, **{bound: number})


def _where(chosen: Any, one: Any, other: Any) -> Any:
    return (
        torch.where(chosen, one, other)
        if isinstance(chosen, Tensor)
        else (one if chosen else other)
    )


def _whole(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x).to(torch.int64) if x.is_floating_point() else x


_NAMED = "sqrt rsqrt exp exp2 log log2 log1p sin cos atan tanh sigmoid sign erf relu".split()
_FUNCTIONS: dict[str, Callable[..., Any]] = {name: getattr(torch, name) for name in _NAMED}
_FUNCTIONS |= OPERATORS
_FUNCTIONS |= {
    "and": lambda *xs: reduce(operator.and_, xs),
    "or": lambda *xs: reduce(operator.or_, xs),
    "not": torch.logical_not,
    "abs": torch.abs,
    "min": _least,
    "max": _most,
    "clamp": lambda x, low, high: _least(_most(x, low), high),
    "where": _where,
    "floor": _whole(torch.floor),
    "ceil": _whole(torch.ceil),
    "stopgrad": torch.detach,
    "softplus": F.softplus,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "silu": F.silu,
    "gelu": F.gelu,
    "logsigmoid": F.logsigmoid,
}
