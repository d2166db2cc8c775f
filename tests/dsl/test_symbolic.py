"""Every derivative rule against PyTorch's autograd, kinks included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sympy as sp
import torch
from torch import Tensor

from attnspec.dsl.analysis import symbolic

F = torch.nn.functional
ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "log": torch.log,
    "log2": torch.log2,
    "log1p": torch.log1p,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "relu": torch.relu,
    "elu": F.elu,
    "silu": F.silu,
    "gelu": F.gelu,
    "erf": torch.erf,
    "sign": torch.sign,
    "neg": torch.neg,
    "stopgrad": torch.detach,
}
TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "min": torch.minimum,
    "max": torch.maximum,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "leaky_relu": lambda x, slope: torch.where(x > 0, x, slope * x),
}
POSITIVE = {"sqrt", "rsqrt", "log", "log2", "log1p", "pow"}


def number(expr: Any, env: dict[str, Tensor]) -> Tensor:
    """The value of a SymPy expression, from PyTorch's functions."""
    if expr.is_Symbol:
        return env[str(expr.name)]
    if expr.is_Number:
        return torch.tensor(float(expr), dtype=torch.float64)
    args = [number(a, env) for a in expr.args]
    if expr.is_Add:
        return torch.stack(torch.broadcast_tensors(*args)).sum(0)
    if expr.is_Mul:
        return torch.stack(torch.broadcast_tensors(*args)).prod(0)
    if expr.is_Pow:
        return torch.pow(*args)
    op = type(expr).op
    compared: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge, "eq": torch.eq,
    }  # fmt: skip
    if op == "where":
        condition, yes, no = torch.broadcast_tensors(*args)
        return torch.where(condition, yes, no)
    if op == "step":
        return (args[0] > 0).double()
    if op in compared:
        return compared[op](*args)
    value: Tensor = ONE[op](*args) if len(args) == 1 else TWO[op](*args)
    return value


def points(op: str) -> Tensor:
    plus = [0.1, 0.5, 1.0, 2.0, 3.7]
    values = plus if op in POSITIVE else [-3.0, -1.0, -0.4, 0.0, *plus]
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("op", sorted(set(ONE) - {"stopgrad"}))
def test_functions_of_one(op: str) -> None:
    x = points(op).requires_grad_()
    (wanted,) = torch.autograd.grad(ONE[op](x).sum(), x)
    found = symbolic.derivatives(symbolic.apply(op, [sp.Symbol("x")]), ["x"])["x"]
    torch.testing.assert_close(number(found, {"x": x.detach()}).expand_as(x), wanted)


@pytest.mark.parametrize("op", sorted(TWO))
def test_functions_of_two(op: str) -> None:
    grid = torch.cartesian_prod(points(op), points("pow"))
    x, y = (c.clone().requires_grad_() for c in grid.unbind(1))
    wanted = torch.autograd.grad(TWO[op](x, y).sum(), [x, y])
    expr = symbolic.apply(op, [sp.Symbol("x"), sp.Symbol("y")])
    found = symbolic.derivatives(expr, ["x", "y"])
    for name, grad in zip(("x", "y"), wanted, strict=True):
        env = {"x": x.detach(), "y": y.detach()}
        torch.testing.assert_close(number(found[name], env).expand_as(grad), grad)


def test_clamp() -> None:
    names = ["x", "low", "high"]
    rows = [
        (-2.0, -1.0, 1.0),
        (-1.0, -1.0, 1.0),
        (0.3, -1.0, 1.0),
        (1.0, -1.0, 1.0),
        (4.0, 0.0, 1.0),
    ]
    values = [
        torch.tensor(c, dtype=torch.float64, requires_grad=True) for c in zip(*rows, strict=True)
    ]
    wanted = torch.autograd.grad(torch.clamp(*values).sum(), values)
    found = symbolic.derivatives(symbolic.apply("clamp", [sp.Symbol(n) for n in names]), names)
    env = {n: v.detach() for n, v in zip(names, values, strict=True)}
    for name, grad in zip(names, wanted, strict=True):
        torch.testing.assert_close(number(found[name], env).expand_as(grad), grad)


@pytest.mark.parametrize("exponent", [-3, -1, 2, 3, 8])
def test_whole_powers(exponent: int) -> None:
    x = torch.tensor([-2.0, -0.5, 0.7, 3.0], dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad((x**exponent).sum(), x)
    expr = symbolic.apply("pow", [sp.Symbol("x"), sp.Integer(exponent)])
    found = symbolic.derivatives(expr, ["x"])["x"]
    torch.testing.assert_close(number(found, {"x": x.detach()}), wanted)


def test_the_branch_not_taken_never_leaks() -> None:
    x = sp.Symbol("x")
    expr = symbolic.Where(sp.Symbol("c"), symbolic.apply("log", [x]), 2 * x)
    found = symbolic.derivatives(expr, ["x"])["x"]
    env = {"x": torch.zeros((), dtype=torch.float64), "c": torch.tensor(False)}
    assert number(found, env) == 2


def test_stopgrad_and_a_chain() -> None:
    x = sp.Symbol("x")
    held = symbolic.derivatives(symbolic.apply("stopgrad", [x]) * x, ["x"])["x"]
    assert number(held, {"x": torch.tensor(3.0, dtype=torch.float64)}) == 3
    inner = symbolic.apply("tanh", [x / 20]) * 20
    value = torch.tensor([0.3, -40.0], dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad((20 * torch.tanh(value / 20)).sum(), value)
    found = symbolic.derivatives(inner, ["x"])["x"]
    torch.testing.assert_close(number(found, {"x": value.detach()}), wanted)
