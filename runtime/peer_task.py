"""One call of a spec as its peers see it: operands, masks and biases as tensors, and the output."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attnspec.dsl import ast
from attnspec.runtime.bind import Bound
from attnspec.runtime.named import Named
from attnspec.runtime.peer_form import Form, Unfit, form, inlined, over_pairs, own
from attnspec.runtime.peer_scores import OfPairs, of_pairs, places
from attnspec.runtime.reference import Evaluator, shared_nodes

_GIB = 2**30


@dataclass(frozen=True)
class Task:
    """One spec and one call of it; `changing` are the arguments that differ from call to call: all
    others, and what follows from them, may be prepared."""

    spec: ast.Spec
    bound: Bound
    changing: frozenset[str]

    def evaluator(self) -> Evaluator:
        """Of one call: its values may have gradients."""
        return Evaluator(self.spec, self.bound, self.bound.dtype, shared=self._shared)

    @cached_property
    def _shared(self) -> frozenset[int]:
        return shared_nodes(self.spec)

    def fixed(self, node: ast.Expr) -> bool:
        """Whether nothing that changes is read, directly or through definitions."""
        for found in ast.walk(node):
            if isinstance(found, ast.Read):
                definition = self.spec.definition(found.name)
                if found.name in self.changing:
                    return False
                if definition is not None and not self.fixed(definition.expr):
                    return False
        return True

    def pairs(self) -> int:
        """Pairs (b, h, i, j) that the mask leaves; `Unfit` where it is no function of a pair."""
        sizes = self.bound.sizes
        if self.spec.mask is None:
            return sizes["b"] * sizes["h"] * sizes["i"] * sizes["j"]
        function = of_pairs(self.spec, self.bound, self.spec.mask, None, {})
        count = function.bound(self.evaluator())
        b, h, i, j = places(self.bound)
        found = 0
        for rows in i.split(max(1, 2**24 // sizes["j"]), -2):
            kept = over(count(rows, b, h, rows, j), rows, j)
            share = kept[..., 0, 0].numel()  # of batches and heads
            found += int(kept.sum()) * (sizes["b"] * sizes["h"] // share)
        return found


def is_causal(task: Task) -> bool:
    """Whether the mask is j <= i, of as many queries as keys that start together."""
    mask, bound = task.spec.mask, task.bound
    assert mask is not None
    i, j = (ast.Index(axis, kind=ast.Kind.INT) for axis in "ij")
    later = ast.Apply("le", (j, i), kind=ast.Kind.BOOL)
    square = bound.sizes["i"] == bound.sizes["j"] and bound.q_start == bound.k_start
    return square and all(part == later for part in ast.conjuncts(mask))


def dot_factor(task: Task, shape: Form) -> float:
    """The factors around the dot product as one number."""
    spec = task.spec

    def factor(node: ast.Expr) -> float:
        node = inlined(spec, node)
        if node is shape.dot:
            return 1.0
        assert isinstance(node, ast.Apply)
        left, right = node.args
        if over_pairs(spec, right):
            return number(left) * factor(right)
        return factor(left) * (number(right) if node.op == "mul" else 1 / number(right))

    def number(node: ast.Expr) -> float:
        return float(Evaluator(spec, task.bound, torch.float64)(node).tensor)

    return factor(shape.scaled)


def operands(task: Task, shape: Form, e: Evaluator) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value [b, heads, tokens, channels]; keys and values have as many heads."""
    axis = shape.dot.axes[0]
    q = _operand(task, e, shape.query, ("b", "h", "i", axis))
    k = _operand(task, e, shape.key, ("b", "h", "j", axis))
    v = _operand(task, e, shape.value, ("b", "h", "j", shape.channel))
    heads = max(k.shape[1], v.shape[1])
    k, v = (
        x.repeat_interleave(heads // x.shape[1], 1) if x.shape[1] < heads else x for x in (k, v)
    )
    return q, k, v


def _operand(task: Task, e: Evaluator, node: ast.Expr, axes: tuple[str, ...]) -> Tensor:
    """An argument as it was given, with as many heads as it has; anything else as a tensor."""
    node = inlined(task.spec, node)
    given = _given(task, node, axes)
    return e.full(node, axes) if given is None else given


def _given(task: Task, node: ast.Expr, axes: tuple[str, ...]) -> Tensor | None:
    """The argument that `node` is, if it is one over `axes`."""
    if isinstance(node, ast.Read) and node.pad is None:
        found = task.bound.tensors.get(node.name)
        indices = own(ast.Def(node.name, axes, node))
        if isinstance(found, Tensor) and found.dim() == 4 and node.index == indices:
            return found
    return None


def evaluators(
    task: Task, shape: Form, functions: Iterable[OfPairs] = ()
) -> Callable[[], Evaluator]:
    """What gives the evaluator of a call: one for all calls where they compute nothing with it."""
    q, k, v = (inlined(task.spec, node) for node in (shape.query, shape.key, shape.value))
    axis = shape.dot.axes[0]
    plain = (
        _given(task, q, ("b", "h", "i", axis)) is not None
        and _given(task, k, ("b", "h", "j", axis)) is not None
        and _given(task, v, ("b", "h", "j", shape.channel)) is not None
        and shape.sink is None
        and _is_output(task, shape)
        and all(isinstance(source, Tensor) for f in functions for source in f.sources)
    )
    if not plain:
        return task.evaluator
    one = task.evaluator()
    return lambda: one


def has_groups(task: Task) -> bool:
    """Whether several query heads share one of keys."""
    q, k, _ = operands(task, form(task.spec), task.evaluator())
    return q.shape[1] != k.shape[1]


def product(left: Tensor, right: Tensor, group: int) -> Tensor:
    """left @ right, each head on the right serving `group` on the left."""
    if group == 1:
        return left @ right
    product: Tensor = left.unflatten(1, (-1, group)) @ right.unsqueeze(2)
    return product.flatten(1, 2)


def output(task: Task, shape: Form, e: Evaluator, out: Tensor) -> Tensor:
    """The spec's output, its sum over the keys being `out`."""
    if _is_output(task, shape):
        return out
    assert task.spec.output is not None
    e.memo[(id(shape.total),)] = Named(out, ("b", "h", "i", shape.channel))
    return e.full(task.spec.output, ("b", "h", "i", task.spec.channel))


def _is_output(task: Task, shape: Form) -> bool:
    output = task.spec.output
    return output is not None and inlined(task.spec, output) is shape.total


def pair_function(task: Task, whole: ast.Expr, dot: ast.Expr, hold: bool = True) -> OfPairs:
    """`whole` as a function of pairs; `hold`: with what is fixed of it given for all of them."""
    spec, held = task.spec, {}
    for node in _fixed_parts(task, whole, dot) if hold else ():
        held[id(node)] = dense(task, node)
    return of_pairs(spec, task.bound, whole, inlined(spec, dot), held)


def dense(task: Task, node: ast.Expr) -> Tensor:
    """A node over pairs as a tensor, of size 1 or none where it does not depend on b or h."""
    function = of_pairs(task.spec, task.bound, node, None, {})
    given = places(task.bound)
    with torch.no_grad():
        return over(function.bound(task.evaluator())(given[0], *given), *given[2:])


def over(value: Tensor, *rows: Tensor) -> Tensor:
    """`value` over all rows i and j."""
    whole: Tensor = torch.broadcast_tensors(value, *rows)[0]
    return whole


def _fixed_parts(task: Task, whole: ast.Expr, dot: ast.Expr) -> Iterator[ast.Expr]:
    """The largest parts of `whole` over pairs that never change, of what changes as a whole."""
    stack = [] if task.fixed(whole) else [whole]
    while stack:
        node = inlined(task.spec, stack.pop())
        if node is inlined(task.spec, dot) or not over_pairs(task.spec, node):
            continue
        if task.fixed(node):
            yield node
        else:
            stack += ast.children(node)


def room(task: Task, bytes_each: int, over: frozenset[str] = frozenset("bhij")) -> None:
    """Refuse tensors over pairs that do not fit the machine's free memory."""
    size = bytes_each
    for axis in {"i", "j"} | over & {"b", "h"}:
        size *= task.bound.sizes[axis]
    if size > _free(task.bound.device):
        raise Unfit(f"it would take {size / _GIB:.0f} GiB")


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
