"""Gradients are the same bits every time, and no kernel adds to what another program writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.codegen import library
from attnspec.codegen.plan_types import PairPlan
from attnspec.dsl.analysis.index_sets import places
from attnspec.dsl.ast import Expr, Kind, Read, Reduce, Spec
from attnspec.dsl.check_gradient import parts_with_gradient
from attnspec.runtime.axes import side
from attnspec.runtime.typical import typical

ROOT = Path(__file__).parents[2]
# a gradient by row, by column, per head, of a table, of a pair, of lists, on compact tiles, of a
# table for each query or key
SPECS = (
    "alibi",
    "t5",
    "pair_bias",
    "forgetting",
    "documents",
    "swin",
    "natten",
    "sink",
    "retention",
    "deberta",
)


@pytest.mark.parametrize("name", library.names())
def test_no_kernel_uses_atomics(name: str) -> None:
    assert "atomic" not in attnspec.load(name).source


def test_no_function_that_kernels_call_uses_atomics() -> None:
    sources = [*(ROOT / "runtime").glob("triton_*.py"), *(ROOT / "templates").iterdir()]
    assert len(sources) >= 6
    for source in sources:
        assert "atomic" not in source.read_text(encoding="utf-8"), source.name


def gradients(name: str, backend: str, length: int) -> list[Tensor]:
    """Output and every gradient of a call on a backend."""
    attention = attnspec.load(name)
    given = typical(attention.spec, length=length, heads=2, kv_heads=1)
    leaves = []
    for key, value in given.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            given[key] = value.clone().requires_grad_()
            leaves.append(given[key])
    output = attention(**given, backend=backend)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((output * weight).sum(), leaves, allow_unused=True)
    return [output.detach(), *(g for g in found if g is not None)]


def same(name: str, backend: str, length: int) -> None:
    """Fail unless two calls give the same bits."""
    one, two = gradients(name, backend, length), gradients(name, backend, length)
    assert len(one) > 3
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", SPECS)
def test_gradients_repeat_bit_by_bit(name: str) -> None:
    same(name, "cpu", 150)


def test_gradients_repeat_bit_by_bit_under_the_interpreter() -> None:
    program = "from tests.runtime.test_repeatable import same\n"
    program += "\n".join(f"same({name!r}, 'triton', 40)" for name in SPECS)
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", library.names())
def test_kernels_sum_where_the_index_sets_say(name: str) -> None:
    """The fact is found on the spec, the roles by the plan: neither knows the other."""
    attention = attnspec.load(name)
    if not attention.plan.passes:
        pytest.skip("no kernel")
    said = {(place.name, place.where) for place in places(attention.spec)}
    parts = [part for plan in attention.plan.passes for part in summed(plan)]
    done = {(read, role) for role, expr in parts for read in learning(attention.spec, expr)}
    if not said:  # of vectors of a pair
        assert any(plan.lanes or plan.sums for plan in attention.plan.passes)
        return
    assert done
    assert done <= said


def summed(plan: PairPlan) -> Iterator[tuple[str, Expr]]:
    """What the kernels of a pass differentiate, and where its gradients are summed."""
    sides = {"row": "row", "column": "column"}
    if plan.row == "j":  # the kernels' rows are the keys
        sides = {"row": "column", "column": "row"}
    for leaf in plan.read:
        if leaf.grad:
            yield sides.get(leaf.role, leaf.role), leaf.operand.expr
    differentiated = {g.of for branch in plan.branches for g in branch.gradients}
    for dot in plan.dots:
        if dot.name not in differentiated:  # a mask reads it
            continue
        yield sides["row"], dot.left.expr
        yield sides["column"], dot.right.expr
    if plan.value is not None:
        yield sides["column"], plan.value.expr


def learning(spec: Spec, expr: Expr) -> set[str]:
    """The float arguments that `expr` reads with a gradient, outside of sums over pairs.

    Such a sum is the result of an earlier pass, whose own kernels pass the gradient on.
    """
    found, stack = set(), [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Reduce) and {side(spec, axis) for axis in node.body.free} >= {"i", "j"}:
            continue
        if isinstance(node, Reduce) and node.mask is not None:
            continue
        if isinstance(node, Read):
            decl = spec.decl(node.name)
            if decl is not None and decl.kind is Kind.FLOAT and (decl.axes or decl.form == "param"):
                found.add(node.name)
        stack.extend(parts_with_gradient(spec, node))
    return found
