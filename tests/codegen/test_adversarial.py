"""Specs that stress what the lowering assumes, each held against its definition.

Every case was once wrong, or crashed, on one of the backends.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime.api import Attention

SIZES = {"b": 2, "h": 4, "i": 5, "j": 37, "d": 6, "e": 5, "r": 3}


def normal(*shape: int) -> Tensor:
    """Normal float64 numbers, the same at each call."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A spec's statements, sizes that differ from `SIZES`, arguments that are not drawn, and the
    call's own words (grids, starts)."""

    text: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, int] = field(default_factory=dict)

    def arguments(self, f: Attention) -> dict[str, Any]:
        """Float64 arguments, two key heads to four query heads."""
        fixed = {a: size for a, size in f.signature.sizes if isinstance(size, int)}
        sizes = SIZES | fixed | dict(self.sizes)
        if not any("i" in a.axes for a in f.signature.arguments):
            sizes["i"] = sizes["j"]
        generator = torch.Generator().manual_seed(3)
        found: dict[str, Any] = {}
        for a in f.signature.arguments:
            shape = [2 if a.operand and x == "h" else sizes.get(x, 4) for x in a.axes]
            if a.name in self.given:
                found[a.name] = self.given[a.name]
            elif a.scalar:
                continue
            elif a.kind == "float":
                found[a.name] = torch.randn(shape, generator=generator, dtype=torch.float64)
            else:
                found[a.name] = torch.randint(0, 3, shape, generator=generator)
        return found


square = {"j": 5}
INFINITE, NO_NUMBER = float("inf"), float("nan")
infinite = torch.where(torch.arange(37) % 9 < 8, 1.0, INFINITE).double().expand(2, 37)
zeros = normal(2, 2, 37, 6) * (torch.arange(37) % 3 > 0)[:, None]
CASES = {
    # batches and heads are found by name
    "heads last": Case("param w[7, 5, h]\nscore = dot(q[i], k[j]) + w[i % 7, j % 5]"),
    "batch last": Case("input w[7, 5, b]\nscore = dot(q[i], k[j]) + w[i % 7, j % 5]"),
    "heads first": Case("input bias[h, b, i, j]\nscore = dot(q[i], k[j]) + bias[i, j]"),
    "heads after": Case("input bias[i, j, h]\nscore = dot(q[i], k[j]) + bias[i, j]"),
    # fewer key heads
    "over heads": Case(
        "param p[d]\nlet w[j] = softmax(dot(k[j], p), over=h)\nscore = dot(q[i], k[j]) * w[j]"
    ),
    "rank of heads": Case("param p[d]\nscore = dot(q[i], k[j]) * rank(h, dot(k[j], p))"),
    "keys as rows": Case("score = dot(q[i], k[j]) + dot(k[i], k[j])", square),
    # a flag or a number decides
    "flag": Case(
        "input flag: bool\ninput c[b, j]\nlet w[b] = sum(n, where(flag, c[n], 2.0))\n"
        "score = dot(q[i], k[j]) * w",
        given={"flag": False},
    ),
    "log of a number": Case(
        "input x: float = 0\nscore = dot(q[i], k[j]) * where(x > 0, log(x) * log(x) * sqrt(x), 1)"
    ),
    "overflow": Case(
        "input x: float = -1000\nscore = dot(q[i], k[j]) * (1 + sigmoid(x) + softplus(-x) / 900)"
    ),
    # what is not taken has no gradient
    "log not taken": Case(
        "input a[b, n]\nlet g[n] = where(a[n] > 0, log(a[n]), 0)\n"
        "score = dot(q[i], k[j]) + g[j] * g[i]",
        square,
        {"a": normal(2, 5).relu()},
    ),
    "masked root": Case(
        "input keep[b, j]: bool\nmask keep[j]\nlet r[j] = sqrt(norm2(k[j]))\n"
        "score = dot(q[i], k[j]) * r[j]",
        given={"k": zeros, "keep": (torch.arange(37) % 3 > 0).expand(2, 37)},
    ),
    "division by 0": Case(
        "input r[b, j]: int\n"
        "score = dot(q[i], k[j]) + where(r[j] != 0, i // r[j], 0) + where(r[j] > 0, i % r[j], 0)"
    ),
    # pads
    "pad by head": Case("param s[h]\nvalue = v[j] + v[j - 1, pad=s]"),
    "pad at the edge of a grid": Case(
        "grid y, x\nvalue = v[j] + v[y=j.y, x=j.x + 1, pad=0]",
        {"i": 6, "j": 6},
        call={"GY": 2, "GX": 3},
    ),
    # arithmetic
    "remainder": Case("score = dot(q[i], k[j]) % 3.0"),
    "negative base": Case("score = dot(q[i], k[j]) * (-2) ** (1 + i % 2)"),
    "cancels in a function": Case("input a[b, i]\nscore = dot(q[i], k[j]) * exp(a[i] - a[i])"),
    "cancels": Case("score = dot(q[i], k[j]) - dot(q[i], k[j])"),
    "mean of integers": Case(
        "input c[b, j]: int\nlet m[b] = mean(n, c[n]) + amax(n, c[n], where=c[n] > 0)\n"
        "score = dot(q[i], k[j]) * m"
    ),
    "places of greatest values": Case(
        "axis g = 7\ninput x[b, h, i, g]\nlet at[i] = argmax(g, sign(x[i]), where=x[i] < 0.5)\n"
        "input c[b, j]\nlet far[b] = argmax(j, c[j]) + argmax(j, c[j], where=c[j] > 9)\n"
        "score = dot(q[i], k[j]) * at[i] + j % (1 + far)",
        call={"q_start": 4, "k_start": 3},
    ),
    "places of nothing": Case(
        "input c[b, j]\nlet at[b] = argmax(j, c[j])\nscore = dot(q[i], k[j]) * at", {"j": 0}
    ),
    "rows past the last": Case(
        "param s[h]\ninput z[b, i] where z > 0\nweight = s * dot(q[i], k[j]) / z[i]",
        {"j": 64},
        {"z": normal(2, 5).abs() + 0.1},
    ),
    "strided table": Case(
        "param w[h, 9]\nscore = dot(q[i], k[j]) + w[clamp(i - j, 0, 8)]",
        given={"w": normal(4, 18)[:, ::2]},
    ),
    "bounds with a constant": Case("mask j >= max(i - 3, 0)"),
    # infinite numbers have no difference, and 0 times them is no number
    "infinite values times 0": Case("input x[b, j]\nmask x[j] * 0 <= 0", given={"x": infinite}),
    "infinity cancels": Case(
        "input w: float = 1\nmask i - j <= w - w + 4", given={"w": INFINITE}
    ),
    "no number on both sides": Case(
        "input w: float = 1\nmask i - j + w <= w", given={"w": NO_NUMBER}
    ),
    "infinity cancels in a choice": Case(
        "input w: float = 1\nmask where(j < 20, w, 2) - w <= 3", given={"w": INFINITE}
    ),
    "infinite factor": Case(
        "input w: float = 1 where w > 0\nmask w * i >= w * j", given={"w": INFINITE}
    ),
    "infinite factor of the queries": Case(
        "input w: float = 1 where w > 0\nmask w * (i - 3) <= 5 and j <= i + 3",
        given={"w": INFINITE},
    ),
    "mask alone uses the dot": Case("mask dot(q[i], k[j]) > 0\nscore = j / 10"),
    # names and sizes
    "concatenation": Case(
        "axis r\nquery qr[r]\nkey kr[r]\nscore = dot(concat(q[i], qr[i]), concat(k[j], kr[j]))\n"
        "value = concat(v[j], kr[j])"
    ),
    "names that run together": Case(
        "axis y_b = 3\nquery x[y_b]\nkey x_y[y_b]\nscore = dot(x[i], x_y[j]) + dot(q[i], k[j])"
    ),
    "no batch": Case("param s[h]\nscore = dot(q[i], k[j]) * s\ngate = s", {"b": 0}),
    "no key": Case(
        "input c[b, j]\nlet m[b] = max(amax(n, c[n]), 0) + mean(n, c[n])\n"
        "score = dot(q[i], k[j]) * m",
        {"j": 0},
    ),
}  # fmt: skip


def results(
    function: Callable[..., Any], arguments: Mapping[str, Any], call: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The output and every gradient of a function of the arguments."""
    own = {
        n: x.detach().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x
        for n, x in arguments.items()
    }
    y = function(**own, **call)
    leaves = {n: x for n, x in own.items() if isinstance(x, Tensor) and x.requires_grad}
    upstream = normal(*y.shape).to(y.dtype)
    grads = torch.autograd.grad(y, list(leaves.values()), upstream, allow_unused=True)
    found = {
        f"gradient of {n}": torch.zeros_like(x) if g is None else g
        for (n, x), g in zip(leaves.items(), grads, strict=True)
    }
    return {"output": y.detach(), **found}


@pytest.mark.parametrize("name", CASES)
def test_the_lowering_is_the_definition(name: str) -> None:
    case = CASES[name]
    f = attnspec.compile(f"attention a\n{case.text}\n")
    arguments = case.arguments(f)
    backend = "blocked" if f.plan.uncovered else "cpu"
    got = results(f, arguments, {**case.call, "backend": backend})
    wanted = results(f.reference, arguments, case.call)
    for part, want in wanted.items():
        torch.testing.assert_close(got[part], want, rtol=1e-9, atol=1e-9, msg=f"{name}: {part}")


ON_TRITON = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from test_adversarial import CASES, results
import attnspec

for name, case in CASES.items():
    if case.sizes.get("b") == 0:
        continue
    f = attnspec.compile(f"attention a\\n{case.text}\\n")
    if not f.plan.passes:
        continue
    given = case.arguments(f)
    short = {n: x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
             for n, x in given.items()}
    for n, x in given.items():
        if isinstance(x, torch.Tensor) and not x.is_contiguous() and n == "w":  # `float` changes it
            short[n] = x.float().repeat_interleave(2, 1)[:, ::2]
    got = results(f, short, {**case.call, "backend": "triton"})
    for part, want in results(f.reference, given, case.call).items():
        torch.testing.assert_close(
            got[part].double(), want, rtol=3e-4, atol=3e-4, msg=f"{name}: {part}"
        )
print("done")
"""


def test_kernels_are_the_definition() -> None:
    """The same cases through Triton's interpreter, which is chosen when Triton is imported."""
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", ON_TRITON, str(here)],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=False,
        timeout=600,
    )
    assert run.stdout.endswith("done\n"), run.stderr[-3000:]


MASKED = """attention mine
param slope[h] = 0.5
input a[b, j] where 0 < a and a <= 1
let g[j] = where(a[j] > 0.5, log(a[j]), 0)
mask j <= i
score = dot(q[i], k[j]) - slope * (i - j) + g[j]
"""


def operands() -> dict[str, Any]:
    return {"q": normal(1, 2, 6, 4), "k": normal(1, 2, 6, 4), "v": normal(1, 2, 6, 4)}


def level() -> Tensor:
    return normal(1, 6).sigmoid()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_module_is_copied_after_a_call(again: Callable[[Any], Any]) -> None:
    layer = attnspec.compile(MASKED).module(heads=2, dtype=torch.float64)
    y = layer(**operands(), a=level())
    torch.testing.assert_close(again(layer)(**operands(), a=level()), y)


def test_threads_load_a_spec_at_once() -> None:
    text = MASKED.replace("mine", "threads")
    functions = [attnspec.compile(text) for _ in range(4)]
    found: list[Any] = []

    def call(f: Attention) -> None:
        try:
            found.append(f(**operands(), a=level()))
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=call, args=(f,)) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for y in found:
        torch.testing.assert_close(y, found[0])


def test_second_derivatives_are_refused() -> None:
    given = operands()
    q = given["q"].requires_grad_()
    y = attnspec.compile(MASKED)(**given, a=level())
    (grad,) = torch.autograd.grad(y.square().sum(), q, create_graph=True)
    with pytest.raises(attnspec.AttnError, match="second derivatives"):
        grad.sum().backward()


def test_a_compiled_step_is_the_eager_one() -> None:
    f, given = attnspec.compile(MASKED), operands()

    def step(a: Tensor) -> Tensor:
        y = f(**given, a=a)
        assert isinstance(y, Tensor)
        return y.square().sum()

    a = level().requires_grad_()
    (eager,) = torch.autograd.grad(step(a), a)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    (grad,) = torch.autograd.grad(compiled(a), a)
    torch.testing.assert_close(grad, eager)


def test_what_is_no_number_breaks_no_fact() -> None:
    f = attnspec.compile(MASKED)
    a = level()
    a[0, 4] = float("nan")
    y, wanted = f(**operands(), a=a), f.reference(**operands(), a=a)
    torch.testing.assert_close(y, wanted, equal_nan=True)
    with pytest.raises(attnspec.AttnError, match="0 < a"):
        f(**operands(), a=a - 2)


@pytest.mark.parametrize("bad", [0, 1])
def test_facts_hold_for_both_of_a_pair(bad: int) -> None:
    f = attnspec.compile(
        "attention mine\ninput doc[b, n]: int where doc >= 0\nmask doc[i] == doc[j]\n"
    )
    pair = [torch.zeros(1, 6, dtype=torch.int64) for _ in range(2)]
    pair[bad] -= 1
    with pytest.raises(attnspec.AttnError, match="doc >= 0"):
        f(**operands(), doc=tuple(pair))
