"""The meaning of a spec: dense evaluation of the checked tree, with gradients by autograd.

Nothing is clever here. An expression becomes a tensor over the index variables that occur in it;
a recurrence is a loop. Lowerings are held against this module, so it shares no code with them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import assert_never

import torch
from torch import Tensor

from attnspec.dsl import ast
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.axes import expressions, root, side
from attnspec.runtime.bind import Bound, Number
from attnspec.runtime.gather import OUTSIDE
from attnspec.runtime.named import Named, broadcast, join
from attnspec.runtime.pointwise import operate, safe, wide, widen
from attnspec.runtime.random import uniform
from attnspec.runtime.reading import At, read
from attnspec.runtime.recurrence import Histories
from attnspec.runtime.reductions import (
    Rounding,
    cumulative_sum,
    entmax,
    joint,
    mean_product,
    rank,
    reduce_over,
    rounded,
    rounded_sum,
    softmax,
    sum_product,
)

# `at`: time variables that stand at one position while a recurrence advances.
NOWHERE: At = {}


@dataclass(frozen=True, slots=True)
class Outputs:
    """`output` is [B, H, M, channel] (None for `output = none`); `extras` are by name."""

    output: Tensor | None
    extras: dict[str, Tensor]


def evaluate(
    spec: ast.Spec,
    bound: Bound,
    dtype: torch.dtype = torch.float64,
    rounding: Rounding | None = None,
) -> Outputs:
    """The outputs of `spec` computed in `dtype`, on the device of the arguments.

    `extras` are the spec's returns, and `lse` where the weight is a softmax over the keys.
    `rounding` is what sums, and the two numbers a row that stand between a softmax and its
    gradients, are wrong by.
    """
    return outputs(Evaluator(spec, bound, dtype, rounding))


def outputs(evaluator: Evaluator) -> Outputs:
    """What the evaluator's spec gives."""
    spec = evaluator.spec
    output = None
    if spec.output is not None:
        output = evaluator.full(spec.output, ("b", "h", spec.token, spec.channel))
    extras = {r.name: evaluator.full(r.expr, r.axes) for r in spec.returns}
    weight = softmax_weight(spec)
    if weight is not None and "lse" not in extras:
        extras["lse"] = evaluator.log_sum_exp(weight)
    return Outputs(output, extras)


def reference_lse(spec: ast.Spec, bound: Bound, dtype: torch.dtype = torch.float64) -> Tensor:
    """Natural log-sum-exp of the score [B, H, M]; ValueError when the weight is no softmax."""
    node = softmax_weight(spec)
    if node is None:
        raise ValueError(f"the weight of {spec.name} is not a softmax over j")
    return Evaluator(spec, bound, dtype).log_sum_exp(node)


def initial(spec: ast.Spec, name: str, bound: Bound) -> Tensor | Number:
    """The default of argument `name`, from what is bound before it: `initial` of `bind`."""
    decl = spec.decl(name)
    assert decl is not None
    assert decl.default is not None
    with torch.no_grad():
        value = Evaluator(spec, bound, bound.dtype).full(decl.default, decl.axes)
    if decl.kind is ast.Kind.FLOAT:
        value = value.to(bound.dtype)
    if decl.form is ast.Form.INPUT and not decl.axes:
        number: Number = value.item()
        return number
    return value


def softmax_weight(spec: ast.Spec) -> ast.Normalize | None:
    """The weight's softmax over `j`, if it is one."""
    weight = spec.definition("weight")
    if weight is None or not isinstance(weight.expr, ast.Normalize):
        return None
    node = weight.expr
    return node if node.op == "softmax" and node.axes == ("j",) else None


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Room for definitions that stand on hundreds of others; no C stack is used by a call."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 100_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


class Evaluator:
    """Values of a spec's expressions for one call, each computed once."""

    def __init__(
        self,
        spec: ast.Spec,
        bound: Bound,
        dtype: torch.dtype,
        rounding: Rounding | None = None,
        shared: frozenset[int] | None = None,
    ) -> None:
        """`shared`: what `shared_nodes` gives, where it is known already."""
        self.spec = spec
        self.bound = bound
        self.dtype = dtype
        self.rounding = rounding
        self._sums = 0
        self.sizes = dict(bound.sizes)
        for axis in spec.axes:
            if root(spec, axis.name) in bound.sizes:
                self.sizes.setdefault(axis.name, bound.sizes[root(spec, axis.name)])
        self.states = Histories(self)
        self.shared = shared_nodes(spec) if shared is None else shared
        self.memo: dict[tuple[object, ...], Named] = {}
        self.tensors: dict[tuple[str, int], Tensor] = {}

    def full(self, expr: ast.Expr, axes: Sequence[str], at: At = NOWHERE) -> Tensor:
        """`expr` with exactly `axes`."""
        with deep_recursion():
            value = self.value(expr, at)
        [tensor] = widen([value.tensor], expr.kind, self.dtype)
        if tensor.is_floating_point():
            tensor = tensor.to(self.dtype)
        return Named(tensor, value.dims).full(axes, self.sizes)

    def start(self, axis: str) -> int:
        """The first index of `axis`."""
        where = side(self.spec, axis)
        return 0 if where is None else self.bound.start(where)

    def count(self, axis: str) -> int:
        """How many indices `axis` has in the call."""
        return self.sizes[axis]

    def spans(self, axis: str, start: int, size: int) -> bool:
        """Whether the variable `axis` stands at `start`, and at all `size` indices from there."""
        return self.sizes[axis] == size and self.start(axis) == start

    def __call__(self, expr: ast.Expr) -> Named:
        """The value of a whole expression."""
        with deep_recursion():
            return self.value(expr, NOWHERE)

    def value(self, expr: ast.Expr, at: At) -> Named:
        """The value of an expression, time variables standing at the positions `at`."""
        key = (id(expr), *((a, at[a]) for a in sorted(at) if a in expr.free))
        if key in self.memo:
            return self.memo[key]
        value = self._evaluate(expr, at)
        if id(expr) in self.shared:
            self.memo[key] = value
        return value

    def log_sum_exp(self, weight: ast.Normalize) -> Tensor:
        """Log-sum-exp of a softmax over `j`, with its sink, over b, h, i and its channels."""
        with deep_recursion():
            value = self.normaliser(weight)
        axes = ("b", "h", "i", *(d for d in value.dims if d not in ("b", "h", "i")))
        return value.full(axes, self.sizes).to(self.dtype)

    def normaliser(self, weight: ast.Normalize) -> Named:
        """Log-sum-exp of a softmax, with its sink."""
        keep = self._keep(weight.where, weight.mask, NOWHERE)
        body = self._float(weight.body, NOWHERE)
        value = reduce_over("logsumexp", body, weight.axes, keep, self.sizes, 0)
        return self.with_sink(value, weight.sink)

    def with_sink(self, value: Named, sink_logit: ast.Expr | None) -> Named:
        """A log-sum-exp and one more logit."""
        if sink_logit is None:
            return value
        return joint("logsumexp", value, self._float(sink_logit, NOWHERE))

    def _another(self, rounding: Rounding) -> Rounding:
        """That of one more sum, with signs of its own: two equal sums do not round alike."""
        self._sums += 1
        return replace(rounding, seed=rounding.seed + 1009 * self._sums)

    def forget(self) -> None:
        """Drop values at single positions: the recurrence has gone on."""
        self.memo = {key: value for key, value in self.memo.items() if len(key) == 1}

    def _evaluate(self, expr: ast.Expr, at: At) -> Named:
        match expr:
            case ast.Normalize(axes=axes) if any(a in at for a in axes):
                return self._one_of(expr, axes, at)
            case (
                ast.Cumsum(axis=axis)
                | ast.Rank(axis=axis)
                | ast.Rope(axis=axis)
                | ast.Concat(axis=axis)
            ) if axis in at:
                return self._one_of(expr, (axis,), at)
            case ast.Literal(value=value):
                return self.constant(value)
            case ast.Index(axis=axis):
                return self._index(axis, at)
            case ast.Coord(axis=axis, along=along, grid=grid):
                names, lengths = self._grid(grid)
                below = 1
                for length in lengths[names.index(along) + 1 :]:
                    below *= length
                position = self._index(axis, at)
                row = torch.div(position.tensor, below, rounding_mode="floor")
                return Named(row % lengths[names.index(along)], position.dims)
            case ast.Size(of=of):
                return self.constant(self.count(of))
            case ast.Last(axis=axis):
                return self.constant(self.start(axis) + self.count(axis) - 1)
            case ast.GridIndex(coords=coords, grid=grid):
                return self._token([self.value(c, at) for c in coords], self._grid(grid)[1])
            case ast.Read():
                return read(self, expr, at)
            case ast.Apply():
                return self._apply(expr, at)
            case ast.Contract(axes=axes, left=left, right=right):
                inside = _without(at, axes)
                factors = [self._float(left, inside), self._float(right, inside)]
                return sum_product(factors, axes, None, self.sizes)
            case ast.Reduce():
                return self._reduce(expr, at)
            case ast.Normalize(op=op, axes=axes, body=body, sink=sink, alpha=alpha):
                keep = self._keep(expr.where, expr.mask, at)
                x = self._float(body, at)
                if op == "softmax":
                    last = None if sink is None else self._float(sink, at)
                    found = softmax(x, axes, keep, last, self.sizes)
                    if self.rounding:
                        return rounded(found, x, axes, self._another(self.rounding))
                    return found
                power = self.constant(2.0) if alpha is None else self._float(alpha, at)
                rounding = self._another(self.rounding) if self.rounding else None
                return entmax(x, axes[0], keep, power, self.sizes, rounding)
            case ast.Cumsum(axis=axis, body=body, where=where):
                keep = None if where is None else self.value(where, at)
                return cumulative_sum(self.value(body, at), axis, keep, self.sizes)
            case ast.Rank(axis=axis, body=body, where=where):
                keep = None if where is None else self.value(where, at)
                return rank(self.value(body, at), axis, keep, self.sizes)
            case ast.Rope():
                return self._rope(expr, at)
            case ast.Concat(axis=axis, parts=parts):
                values = [self._float(p, at).rename({own: axis}) for own, p in parts]
                dims = (*(d for d in join(*values) if d != axis), axis)
                tensors = [
                    v.over(dims).expand([self.sizes[d] for d in dims[:-1]] + [self.sizes[own]])
                    for v, (own, _) in zip(values, parts, strict=True)
                ]
                return Named(torch.cat(tensors, -1), dims)
            case ast.Random(seed=seed, row=row, column=column):
                return self._random(
                    self.value(seed, at), self._index(row, at), self._index(column, at)
                )
            case _:
                assert_never(expr)

    def _one_of(self, expr: ast.Expr, axes: Sequence[str], at: At) -> Named:
        """What has a value at every index of `axes`, at the one where a time variable stands."""
        value = self.value(expr, _without(at, axes))
        for axis in axes:
            if axis in at:
                value = value.select(axis, at[axis] - self.start(axis))
        return value

    def constant(self, value: bool | int | float) -> Named:
        """A number as a tensor of rank 0."""
        options = {bool: torch.bool, int: torch.int64, float: wide(self.dtype)}
        tensor = torch.tensor(value, dtype=options[type(value)], device=self.bound.device)
        return Named(tensor, ())

    def _index(self, axis: str, at: At) -> Named:
        if axis in at:
            return self.constant(at[axis])
        rows = torch.arange(self.sizes[axis], device=self.bound.device)
        return Named(rows + self.start(axis), (axis,))

    def _float(self, expr: ast.Expr, at: At) -> Named:
        value = self.value(expr, at)
        [tensor] = widen([value.tensor], ast.Kind.FLOAT, self.dtype)
        return Named(tensor, value.dims)

    def _grid(self, grid: str) -> tuple[tuple[str, ...], list[int]]:
        own = "i" if self.spec.shared_grid else grid
        names = next(g.names for g in self.spec.grids if self.spec.shared_grid or g.side == grid)
        return names, [self.sizes[f"{own}.{name}"] for name in names]

    def _token(self, coords: list[Named], lengths: list[int]) -> Named:
        dims = join(*coords)
        position = torch.zeros((), dtype=torch.int64, device=self.bound.device)
        inside = torch.ones((), dtype=torch.bool, device=self.bound.device)
        for coord, length in zip(coords, lengths, strict=True):
            c = coord.over(dims)
            position = position * length + c
            inside = inside & (c >= 0) & (c < length)
        return Named(torch.where(inside, position, OUTSIDE), dims)

    def _apply(self, node: ast.Apply, at: At) -> Named:
        values = [self.value(a, at) for a in node.args]
        dims = join(*values)
        tensors = [v.over(dims) for v in values]
        return Named(operate(node.op, node.kind, tensors, self.dtype), dims)

    def _reduce(self, node: ast.Reduce, at: At) -> Named:
        inside = _without(at, node.axes)
        keep = self._keep(node.where, node.mask, inside)
        if node.kind is ast.Kind.FLOAT and node.op in ("sum", "mean"):
            parts = [self._float(f, inside) for f in factors(node.body)]
            add_up = sum_product if node.op == "sum" else mean_product
            total = add_up(parts, node.axes, keep, self.sizes)
            if self.rounding and any(side(self.spec, axis) for axis in node.axes):
                return rounded_sum(total, self._another(self.rounding))
            return total
        body = self.value(node.body, inside)
        if node.op == "logsumexp":
            body = self._float(node.body, inside)
        start = self.start(node.axes[0])
        return reduce_over(node.op, body, node.axes, keep, self.sizes, start)

    def _keep(self, where: ast.Expr | None, mask: tuple[str, str] | None, at: At) -> Named | None:
        """Which indices take part: None for all."""
        parts = [] if where is None else [self.value(where, at)]
        if mask is not None and self.spec.mask is not None:
            pairs = self.allowed(self.spec.mask, mask)
            for axis in mask:
                if axis in at:
                    pairs = pairs.select(axis, at[axis] - self.start(axis))
            parts.append(pairs)
        dims = join(*parts)
        tensors = [p.over(dims) for p in parts]
        match tensors:
            case []:
                return None
            case [one]:
                return Named(one, dims)
            case _:
                return Named(torch.logical_and(*tensors), dims)

    def allowed(self, condition: ast.Expr, mask: tuple[str, str]) -> Named:
        """The spec's mask, its i and j standing at the two variables `mask`."""
        pairs = self.memo.get(("mask",))
        if pairs is None:
            pairs = self.memo[("mask",)] = self.value(condition, NOWHERE)
        return pairs.rename({"i": mask[0], "j": mask[1]})

    def _rope(self, node: ast.Rope, at: At) -> Named:
        body = self._float(node.body, at)
        positions = [self._float(p, at) for p in node.positions]
        base = self._float(node.base, at)
        rest = tuple(d for d in join(body, base, *positions) if d != node.axis)
        width = self.sizes[node.axis] // len(positions)
        if width * len(positions) != self.sizes[node.axis] or width % 2:
            raise AttnError(
                f"rope: expected a channel axis that splits into {len(positions)} even groups,"
                f" got {self.sizes[node.axis]} channels"
            )
        flat = body.over((*rest, node.axis))
        x = flat.reshape(*flat.shape[:-1], len(positions), 2, width // 2)
        pair = torch.arange(width // 2, device=x.device, dtype=wide(self.dtype))
        frequency = safe(torch.pow, base.over((*rest, node.axis)), -2 * pair / width)
        groups = []
        for n, position in enumerate(positions):
            angle = safe(torch.mul, position.over((*rest, node.axis)), frequency)
            cos, sin = torch.cos(angle), torch.sin(angle)
            one, two = x[..., n, 0, :], x[..., n, 1, :]
            groups.append(safe(torch.mul, one, cos) - safe(torch.mul, two, sin))
            groups.append(safe(torch.mul, two, cos) + safe(torch.mul, one, sin))
        value = torch.cat(broadcast(*groups), -1)
        return Named(value.to(body.tensor.dtype), (*rest, node.axis))

    def _random(self, seed: Named, row: Named, column: Named) -> Named:
        b, h = self._index("b", NOWHERE), self._index("h", NOWHERE)
        dims = join(b, h, seed, row, column)
        sequence = b.over(dims) * self.count("h") + h.over(dims)
        number = uniform(seed.over(dims), sequence, row.over(dims), column.over(dims))
        return Named(number.to(wide(self.dtype)), dims)


def _without(at: At, axes: Sequence[str]) -> At:
    return {a: n for a, n in at.items() if a not in axes} if at else at


def factors(expr: ast.Expr) -> Iterator[ast.Expr]:
    """The factors of a float product."""
    if isinstance(expr, ast.Apply) and expr.op == "mul" and expr.kind is ast.Kind.FLOAT:
        for arg in expr.args:
            yield from factors(arg)
    else:
        yield expr


def shared_nodes(spec: ast.Spec) -> frozenset[int]:
    """Ids of the nodes that stand under more than one other."""
    counts: Counter[int] = Counter()
    seen: set[int] = set()
    stack = list(expressions(spec))
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen.add(id(node))
            below = list(ast.children(node))
            counts.update(map(id, below))
            stack += below
    return frozenset(i for i, n in counts.items() if n > 1)
