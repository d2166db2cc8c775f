"""What no kernel covers, a block of its tokens at a time: memory stays linear in the length.

The values are those of the definition, and so is the code that finds them. What changes is how
much stands in memory at once: wherever a sum, a softmax or another operation along an axis would
need more than `BUDGET` numbers, its result is put together from blocks of the tokens (then of
heads and batches) that it is free of, and what a block needs is computed anew in the backward.
What every block reads, a number or a vector a token, is computed once, before the first of them.

A softmax of which only some entries are wanted is exp(score - normaliser). A definition over pairs
is evaluated at the tokens at which it is read, whatever they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, reduce
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attnspec.dsl import ast
from attnspec.dsl.ast import Kind
from attnspec.runtime.axes import root
from attnspec.runtime.bind import Bound
from attnspec.runtime.blocked_axes import PARTED, Axes, bound, nested, tensors
from attnspec.runtime.gather import Rows, gather
from attnspec.runtime.named import Named
from attnspec.runtime.pointwise import safe
from attnspec.runtime.reading import At, row_of, tensor_of
from attnspec.runtime.reductions import joint
from attnspec.runtime.reference import NOWHERE, Evaluator, Outputs, outputs

# Numbers that one tensor of a block may hold, by type of device.
BUDGET = {"cpu": 1 << 22, "cuda": 1 << 26}

_LIMIT: ContextVar[int | None] = ContextVar("limit", default=None)

# Positions, ascending, at which the variable of an axis stands; an axis that has none has all.
Windows: TypeAlias = Mapping[str, Tensor]


@contextmanager
def limited(numbers: int) -> Iterator[None]:
    """So many numbers in place of `BUDGET`: small calls have several blocks then."""
    token = _LIMIT.set(numbers)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def evaluate_blocked(spec: ast.Spec, bound: Bound, dtype: torch.dtype) -> Outputs:
    """As `reference.evaluate`, no tensor but those asked for above some `BUDGET` numbers.

    `spec` has no state.
    """
    budget = _LIMIT.get() or BUDGET.get(bound.device.type, BUDGET["cuda"])
    return outputs(Blocked(_Call(spec, bound, dtype, budget), {}, {}))


class _Call:
    """What all blocks of one call share."""

    def __init__(self, spec: ast.Spec, bound: Bound, dtype: torch.dtype, budget: int) -> None:
        self.spec = spec
        self.bound = bound
        self.dtype = dtype
        self.budget = budget
        self.whole = Evaluator(spec, bound, dtype)
        for decl in spec.decls:
            if decl.name not in bound.scalars:
                for part in range(2 if decl.paired else 1):
                    tensor_of(self.whole, decl, part)
        floats = self.whole.tensors.values()
        self.differentiable = any(x.requires_grad for x in floats)
        self.axes = Axes(spec, self.whole.sizes, budget)
        self.nested: dict[int, ast.Expr] = {}  # another form of a node, by its id


@dataclass(frozen=True, slots=True)
class _Held:
    """A value, and the tokens at which it was computed."""

    value: Named
    windows: Windows


class Blocked(Evaluator):
    """Values of expressions where the variables of some axes stand at a few positions only."""

    def __init__(
        self,
        call: _Call,
        windows: Windows,
        held: dict[object, _Held],
        family: dict[object, Blocked] | None = None,
    ) -> None:
        """`held` are values computed before; `family` the evaluators of one block, by windows."""
        whole = call.whole
        super().__init__(call.spec, call.bound, call.dtype, shared=whole.shared)
        self.tensors = whole.tensors
        self.call = call
        self.windows = windows
        self.held = held
        self.family = {} if family is None else family
        self.family[_names(windows)] = self
        self.sizes |= {axis: len(at) for axis, at in windows.items()}

    # What a window changes of the meaning of a variable: where it stands, not what it counts.

    def count(self, axis: str) -> int:
        return self.call.whole.sizes[axis]

    def spans(self, axis: str, start: int, size: int) -> bool:
        return axis not in self.windows and super().spans(axis, start, size)

    def _index(self, axis: str, at: At) -> Named:
        if axis in self.windows:
            return Named(self.windows[axis], (axis,))
        return super()._index(axis, at)

    def value(self, expr: ast.Expr, at: At) -> Named:
        held = self._held(id(expr))
        return super().value(expr, at) if held is None else held

    def _evaluate(self, expr: ast.Expr, at: At) -> Named:
        if isinstance(expr, ast.Read):
            definition = self.spec.definition(expr.name)
            return (
                super()._evaluate(expr, at) if definition is None else self._read(expr, definition)
            )
        own = bound(expr)
        if not own.isdisjoint(self.windows):
            return self._apart(expr, own)
        if self._is_large(expr):
            return self._in_blocks(expr, {})
        return super()._evaluate(expr, at)

    def _held(self, key: object) -> Named | None:
        """A value computed before, at the tokens of this evaluator."""
        found = self.held.get(key)
        if found is None:
            return None
        value = found.value
        for axis in value.dims:
            if found.windows.get(axis) is self.windows.get(axis):
                continue
            if axis in found.windows:
                return None
            value = self._at(value, {axis: self.windows[axis]})
        return value

    def _at(self, value: Named, windows: Windows) -> Named:
        """`value` where the variables stand, of values at all of their indices."""
        for axis in windows:
            if axis in value.dims:
                rows = windows[axis] - self.start(axis)
                place = value.dims.index(axis)
                value = Named(value.tensor.index_select(place, rows), value.dims)
        return value

    def _under(self, windows: Windows) -> Blocked:
        """The evaluator of the same block whose variables stand at `windows`."""
        key = _names(windows)
        if key not in self.family:
            Blocked(self.call, windows, self.held, self.family)
        return self.family[key]

    def _without(self, axes: Iterable[str]) -> Blocked:
        return self._under({a: w for a, w in self.windows.items() if a not in axes})

    def _apart(self, expr: ast.Expr, own: frozenset[str]) -> Named:
        """What binds variables that stand at a few positions only: it runs over all of them."""
        if isinstance(expr, ast.Normalize) and expr.op == "softmax":
            return self._entries(expr)
        there = self._without(own)
        taken = {a: self.windows[a] for a in own & expr.free & self.windows.keys()}
        if taken and there._held(id(expr)) is None and there._is_large(expr):
            return there._in_blocks(expr, taken)
        return self._at(there.value(expr, NOWHERE), taken)

    def _entries(self, expr: ast.Normalize) -> Named:
        """Some entries of a softmax."""
        total = self._held(("normaliser", id(expr)))
        if total is None:
            total = self._without(expr.axes).normaliser(expr)
        keep = self._keep(expr.where, expr.mask, NOWHERE)
        body = self._float(expr.body, NOWHERE)
        dims = tuple(dict.fromkeys((*body.dims, *total.dims, *(keep.dims if keep else ()))))
        dims = (*dims, *(a for a in expr.axes if a not in dims))
        empty = total.tensor == -math.inf
        lowest = Named(torch.where(empty, 0, total.tensor), total.dims).over(dims)
        taken = ~Named(empty, total.dims).over(dims)
        if keep is not None:
            taken = taken & keep.over(dims)
        each = torch.where(taken, body.over(dims) - lowest, -math.inf)
        return Named(safe(torch.exp, each), dims)

    def normaliser(self, weight: ast.Normalize) -> Named:
        """Log-sum-exp of a softmax, with its sink."""
        total = self.call.nested.get(id(weight))
        if total is None:
            total = ast.Reduce(
                op="logsumexp",
                axes=weight.axes,
                body=weight.body,
                where=weight.where,
                mask=weight.mask,
                kind=Kind.FLOAT,
            )
            self.call.nested[id(weight)] = total
        return self.with_sink(self.value(total, NOWHERE), weight.sink)

    # Definitions and the mask, at the tokens at which they are read.

    def allowed(self, condition: ast.Expr, mask: tuple[str, str]) -> Named:
        return Evaluator.allowed(self._of_pairs(mask), condition, mask)

    def _of_pairs(self, mask: tuple[str, str]) -> Blocked:
        """Where the mask's own i and j stand, for it to count at the two variables `mask`."""
        names = zip(("i", "j"), mask, strict=True)
        windows = {a: self.windows[v] for a, v in names if v in self.windows}
        return self._under(windows | self._hidden())

    def _hidden(self) -> dict[str, Tensor]:
        """Of batches and heads, on which a definition may depend without saying so."""
        return {a: self.windows[a] for a in ("b", "h") if a in self.windows}

    def _unsaid(self, definition: ast.Def) -> dict[str, Tensor]:
        """Of the batches and heads that a definition does not list."""
        return {a: at for a, at in self._hidden().items() if a not in definition.axes}

    def _read(self, node: ast.Read, definition: ast.Def) -> Named:
        own = dict(zip(definition.axes, node.index, strict=True))
        pad = None if node.pad is None else self.value(node.pad, NOWHERE)
        windows: dict[str, Tensor] = {}
        if self.call.axes.is_small(definition.axes):
            value = self._at(self._whole(definition), self._unsaid(definition))
        else:
            windows = self._places(own)
            there = self._under(windows | self._unsaid(definition))
            value = there.value(definition.expr, NOWHERE)
        if pad is not None:
            dims = tuple(dict.fromkeys((*definition.axes, *value.dims)))
            places = windows | self._unsaid(definition)
            sizes = self.call.whole.sizes | {a: len(at) for a, at in places.items()}
            value = Named(value.full(dims, sizes), dims)
        rows = [
            self._row(d, own.get(d), n, windows)
            for d, n in zip(value.dims, value.tensor.shape, strict=True)
        ]
        return gather(value.tensor, rows, pad)

    def _whole(self, definition: ast.Def) -> Named:
        """A definition at all of its indices."""
        if definition.name in self.held:
            return self.held[definition.name].value
        whole = self._under({})
        key = (definition.name,)
        if key not in whole.memo:
            whole.memo[key] = whole.value(definition.expr, NOWHERE)
        return whole.memo[key]

    def _variable(self, index: ast.Expr, axis: str) -> str | None:
        """The variable that an index is, if that counts what `axis` counts."""
        if isinstance(index, ast.Index) and root(self.spec, index.axis) == root(self.spec, axis):
            return index.axis
        return None

    def _places(self, own: Mapping[str, ast.Expr]) -> dict[str, Tensor]:
        """The positions at which a definition is wanted."""
        windows: dict[str, Tensor] = {}
        for axis, index in own.items():
            variable, first, size = self._variable(index, axis), self.start(axis), self.count(axis)
            if variable is not None and variable in self.windows:
                windows[axis] = self.windows[variable]
            elif variable is None and size:
                at = self.value(index, NOWHERE).tensor.clamp(first, first + size - 1)
                windows[axis] = torch.unique(at)
        return windows

    def _row(self, axis: str, index: ast.Expr | None, size: int, windows: Windows) -> Rows:
        """Where a dimension of a definition's value is read."""
        if index is None:
            return axis
        if axis in windows:
            variable = self._variable(index, axis)
            if variable is not None:
                return variable
            at = self.value(index, NOWHERE)
            first = self.start(axis)
            inside = (at.tensor >= first) & (at.tensor < first + self.count(axis))
            place = torch.searchsorted(windows[axis], at.tensor.contiguous())
            return Named(torch.where(inside, place, -1), at.dims)
        return row_of(self, index, size, self.start(axis), NOWHERE)

    # Blocks.

    def _product(self, axes: Iterable[str]) -> int:
        return math.prod(self.sizes[a] for a in axes)

    def _largest(self, expr: ast.Expr) -> frozenset[str]:
        """The axes of the largest tensor that is made where something is computed along an axis,
        but for those that hold numbers a token: they are no larger than the call's own."""
        found = [t for t in tensors(expr) if len(self.call.axes.tokens(t)) > 1]
        return max((t | {"b", "h"} for t in found), key=self._product, default=frozenset())

    def _is_large(self, expr: ast.Expr) -> bool:
        return self._product(self._largest(expr)) > self.call.budget

    def _in_blocks(self, expr: ast.Expr, taken: Windows) -> Named:
        """Put together from blocks, where variables that it runs over stand at `taken` alone."""
        simpler = self._one_axis(expr)
        blocks = {} if simpler is not None else self._split(expr)
        own = bound(expr) & blocks.keys()
        if own and isinstance(expr, ast.Reduce) and expr.op == "mean":
            simpler = self._nested(expr)
        if simpler is not None:
            return self.value(simpler, NOWHERE)
        self._prepare_below(expr, frozenset(blocks), set())
        before = dict(self.held)

        def block(windows: Windows) -> Named:
            def run() -> Named:
                inside = Blocked(self.call, windows, dict(before))
                return self._at(inside.directly(expr), taken)

            if not (torch.is_grad_enabled() and self.call.differentiable):
                return run()
            found: Named = checkpoint(run, use_reentrant=False, preserve_rng_state=False)
            return found

        parts = {axis: blocks.pop(axis) for axis in own}
        each = _added_up(block, expr.op, parts) if isinstance(expr, ast.Reduce) else block
        return _together(each, self.windows, list(blocks.items()))

    def directly(self, expr: ast.Expr) -> Named:
        """The value of what has been taken apart far enough."""
        return Evaluator._evaluate(self, expr, NOWHERE)

    def _one_axis(self, expr: ast.Expr) -> ast.Expr | None:
        """A reduction over several axes of tokens as that over one of those over the others."""
        if not isinstance(expr, ast.Reduce) or len(expr.axes) < 2:
            return None
        return self._nested(expr) if self.call.axes.tokens(expr.axes) else None

    def _nested(self, expr: ast.Reduce) -> ast.Expr:
        if id(expr) not in self.call.nested:
            tokens = self.call.axes.tokens(expr.axes)
            self.call.nested[id(expr)] = nested(expr, (tokens or expr.axes)[0])
        return self.call.nested[id(expr)]

    def _split(self, expr: ast.Expr) -> dict[str, tuple[Tensor, ...]]:
        """Blocks of each axis that is taken apart: the longest is halved until all is small.

        First those along which nothing inside is wanted whole; of the others a reduction's own,
        whose parts add up, before those at whose every block all would be computed again.
        """
        axes, own = self.call.axes, bound(expr)
        whole = axes.wanted_below(expr)
        free = axes.repeating(expr.free - own)
        parted = isinstance(expr, ast.Reduce) and expr.op in PARTED
        parts = axes.repeating(own) if parted else set()
        before = dict(self.sizes)
        for some in (free - whole, parts - whole, free & whole):
            while self._is_large(expr):
                choice = [a for a in sorted(self._largest(expr) & some) if self.sizes[a] > 1]
                if not choice:
                    break
                axis = max(choice, key=lambda a: self.sizes[a])
                self.sizes[axis] = -(-self.sizes[axis] // 2)
        found = {a: self.sizes[a] for a in sorted(free | parts) if self.sizes[a] < before[a]}
        self.sizes = before
        return {a: self._index(a, NOWHERE).tensor.split(n) for a, n in found.items()}

    def _prepare(self, expr: ast.Expr, split: frozenset[str], seen: set[object]) -> None:
        """Compute once what is the same, or is wanted whole, in every block of the axes `split`."""
        key = (id(expr), _names(self.windows), split)
        if key in seen:
            return
        seen.add(key)
        definition = self.spec.definition(expr.name) if isinstance(expr, ast.Read) else None
        if isinstance(expr, ast.Read) and definition is not None:
            self._prepare_definition(expr, definition, split, seen)
        own = bound(expr)
        there = self if own.isdisjoint(self.windows) else self._without(own)
        if own and (expr.free.isdisjoint(split) or not own.isdisjoint(split)):
            if not (isinstance(expr, ast.Normalize) and expr.op == "softmax"):
                if self.call.axes.is_small(expr.free):
                    there.held[id(expr)] = _Held(there.value(expr, NOWHERE), there.windows)
                    return
            elif self.call.axes.is_small(expr.free - own):
                found = _Held(there.normaliser(expr), there.windows)
                there.held["normaliser", id(expr)] = found
        there._prepare_below(expr, split - own, seen)

    def _prepare_below(self, expr: ast.Expr, split: frozenset[str], seen: set[object]) -> None:
        """As `_prepare`, for what `expr` is made of."""
        for child in ast.children(expr):
            self._prepare(child, split, seen)
        mask = expr.mask if isinstance(expr, ast.Reduce | ast.Normalize) else None
        if mask is not None and self.spec.mask is not None:
            taken = {a for a, v in zip(("i", "j"), mask, strict=True) if v in split}
            taken |= split & {"b", "h"}
            self._of_pairs(mask)._prepare(self.spec.mask, frozenset(taken), seen)

    def _prepare_definition(
        self, node: ast.Read, definition: ast.Def, split: frozenset[str], seen: set[object]
    ) -> None:
        if self.call.axes.is_small(definition.axes):
            if definition.name not in self.held:
                self.held[definition.name] = _Held(self._whole(definition), {})
            return
        windows = self._unsaid(definition)
        taken = set(split & {"b", "h"}) - set(definition.axes)
        for axis, index in zip(definition.axes, node.index, strict=True):
            variable = self._variable(index, axis)
            if variable is None or variable in split:
                taken.add(axis)
            elif variable in self.windows:
                windows[axis] = self.windows[variable]
        self._under(windows)._prepare(definition.expr, frozenset(taken), seen)


def _names(windows: Windows) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((axis, id(at)) for axis, at in windows.items()))


def _added_up(
    block: Callable[[Windows], Named], op: str, parts: Mapping[str, Sequence[Tensor]]
) -> Callable[[Windows], Named]:
    """A reduction of those over parts of its own axes."""
    places = [dict(zip(parts, at, strict=True)) for at in itertools.product(*parts.values())]
    return lambda windows: reduce(partial(joint, op), (block({**windows, **at}) for at in places))


def _together(
    block: Callable[[Windows], Named],
    windows: Windows,
    axes: list[tuple[str, tuple[Tensor, ...]]],
) -> Named:
    """One value of those of every block."""
    if not axes:
        return block(windows)
    (axis, parts), *rest = axes
    values = [_together(block, {**windows, axis: parts[0]}, rest)]
    if axis not in values[0].dims:  # read as one for all
        return values[0]
    values += [_together(block, {**windows, axis: part}, rest) for part in parts[1:]]
    dims = values[0].dims
    return Named(torch.cat([v.over(dims) for v in values], dims.index(axis)), dims)
