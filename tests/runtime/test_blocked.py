"""The definition in blocks: the same values and gradients, and no tensor of all pairs."""

from __future__ import annotations

import zlib
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import attnspec
from attnspec.codegen import library
from attnspec.runtime import reductions
from attnspec.runtime.blocked import limited
from attnspec.runtime.named import Named
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

SCORE = "score = dot(q[i], k[j]) / sqrt(D)\n"
TEXTS = {
    "transposed": """
        require M == N
        let a[i, j] = softmax(score, over=j)
        weight = a[j, i]""",
    "symmetric": """
        require M == N
        let s[i, j] = tanh(score)
        weight = 0.5 * (s[i, j] + s[j, i]) / N""",
    "shifted": """
        let s[i, j] = score
        mask j <= i
        weight = softmax(score + 0.3 * s[clamp(i - 1, 0, M - 1), j])""",
    "product of maps": """
        require M == N
        let a[i, j] = softmax(score, over=j)
        index u = j
        weight = sum(u, a[i, u] * a[u, j])""",
    "over heads": """
        weight = softmax(score, over=h) / N""",
    "largest before": """
        index u = j
        let top[i, j] = amax(u, score[i, u] + 0.1 * u, where=u <= j)
        mask j <= i
        weight = softmax(top[i, j])""",
    "of all heads": """
        index g = h
        param mix[h, g] = 0.3
        let P[i, j] = exp(score) / (1 + rank(j, score))
        weight = sum(g, mix * P[i, j, h=g])""",
    "of one head": """
        let P[i, j] = exp(score) / (1 + rank(j, score))
        weight = P[i, j, h=0]""",
    "total": """
        let z = logsumexp(i, j, score)
        weight = exp(score - z)""",
    "mean of all": """
        let z = mean(i, j, score, where=j <= i)
        weight = sigmoid(score - z)""",
    "over the queries": """
        mask j <= i
        let c[i, j] = softmax(score, over=i, where=(i + j) % 3 > 0)
        let total[i] = sum(j, c[i, j])
        weight = c[i, j] / (total[i] + 0.1)""",
    "rank": """
        weight = exp(score) / (1 + rank(j, score))""",
    "largest of a column": """
        let m[j] = amax(i, score)
        weight = sigmoid(score - m[j])""",
    "ranks of a column": """
        mask j <= i
        let r[i, j] = exp(-0.3 * rank(j, score))
        let total[j] = sum(i, r[i, j] * score, where=i % 3 != 1)
        weight = score * tanh(total[j])""",
    "ranks of ranks": """
        let w[i, j] = score / (1 + rank(j, score)) + score / (1 + rank(i, score))
        weight = w[i, j] * tanh(mean(i, w[i, j]) - amax(j, w[i, j]))""",
    "sums in order, read apart": """
        require M == N
        let c[i, j] = cumsum(j, tanh(score))
        weight = softmax(c[j, i] + entmax(score, over=i))""",
    "sink": """
        param s[h] = 0.3
        weight = softmax(score, over=j, sink=s)
        return map[b, h, i, j] = weight[i, j]""",
}


def text(name: str) -> str:
    return f"attention blocked_case\n{SCORE}{dedent(TEXTS[name])}\n"


@pytest.mark.parametrize("name", TEXTS)
def test_blocks_give_the_definition(name: str) -> None:
    rows, columns = (9, 9) if "require M == N" in text(name) else (7, 12)
    shape = {"b": 2, "h": 2, "heads": 1, "i": rows, "j": columns, "d": 4, "e": 3}
    start = 4 if "M - 1" not in text(name) else 0
    places = columns - rows + start, start
    case = Case(tuple(shape.items()), *places, "float64", "contiguous", "normal", 3)
    outcome = hold(attnspec.compile(text(name)), case, "blocked")
    assert not outcome.problems, outcome.problems


OF_A_COLUMN = {
    "sum": "x * score", "mean": "x * score", "prod": "1 + x * score", "amax": "score - x",
    "amin": "score + x", "logsumexp": "score - x", "any": "x > 0.6", "all": "x > 0.04",
    "argmax": "stopgrad(score - x)",
}  # fmt: skip


@pytest.mark.parametrize("op", OF_A_COLUMN)
@pytest.mark.parametrize("where", ["", ", where=(i + j) % 4 > 1 and j != 2"])
def test_a_reduction_over_what_is_in_blocks(op: str, where: str) -> None:
    """Of numbers that are found from a whole row at once, some queries at a time."""
    found = f"{op}(i, {OF_A_COLUMN[op]}{where})"
    found = f"where({found}, 1.0, 0.5)" if op in ("any", "all") else f"{found} * 1.0"
    text = f"attention a\n{SCORE}let x = 1 / (1 + rank(j, score))\nreturn z[b, h, j] = {found}\n"
    f = attnspec.compile(text)
    given = [torch.randn(2, 2, n, 3, dtype=torch.float64) for n in (9, 7, 7)]
    results = []
    for backend in ("blocked", "dense"):
        leaves = [x.clone().requires_grad_() for x in given]
        with limited(20):
            z = f(*leaves, extras=True, backend=backend)[1]["z"]
        grad = torch.where(z.isfinite(), z, 0).sin().sum()
        results.append([z, *(torch.autograd.grad(grad, leaves[:2]) if grad.requires_grad else ())])
    torch.testing.assert_close(*results)


def test_every_row_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs whole rows is not found anew for every block of columns."""
    ranked: list[int] = []
    rank = reductions.rank

    def counted(x: Named, *rest: Any) -> Named:
        ranked.append(x.tensor.numel())
        return rank(x, *rest)

    monkeypatch.setattr("attnspec.runtime.reference.rank", counted)
    q, k = (torch.randn(1, 1, 36, 4) for _ in range(2))
    text = "return z[b, h, j] = sum(i, score / (1 + rank(j, score)))\noutput = none\n"
    with limited(300):
        attnspec.compile(f"attention a\n{SCORE}{text}")(q, k, extras=True, backend="blocked")
    assert sum(ranked) == 36 * 36
    assert max(ranked) <= 300


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation gives."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else (found,):
            if isinstance(each, Tensor) and not func.is_view:  # a view has no numbers of its own
                self.numbers = max(self.numbers, each.numel())
        return found


def largest_tensor() -> Largest:
    return Largest()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", sorted(TEXTS.keys() - {"sink"}))
def test_no_tensor_of_all_pairs(name: str) -> None:
    """Forward and backward, of 36 x 36 pairs at most some rows at a time."""
    length, limit = 36, 300
    q, k, v = (torch.randn(1, 1, length, 4, requires_grad=True) for _ in range(3))
    f = attnspec.compile(text(name))
    with largest_tensor() as largest, limited(limit):
        f(q, k, v, backend="blocked").square().sum().backward()
    assert largest.numbers <= limit
    assert all(x.grad is not None for x in (q, k, v))


def test_what_is_wanted_whole_is_given_whole() -> None:
    f = attnspec.compile(text("sink"))
    q, k, v = (torch.randn(1, 2, 20, 4) for _ in range(3))
    with limited(50):
        y, extras = f(q, k, v, extras=True, backend="blocked")
    torch.testing.assert_close(extras["map"] @ v, y)


def test_without_a_kernel_blocks_are_the_default() -> None:
    f = attnspec.compile(text("product of maps"))
    assert [stage.lowering for stage in f.plan.stages] == ["blocked"]
    assert f.plan.backward
    q, k, v = (torch.randn(1, 2, 64, 4) for _ in range(3))
    with largest_tensor() as largest, limited(500):
        y = f(q, k, v)
    assert largest.numbers < 64 * 64
    torch.testing.assert_close(y, f(q, k, v, backend="dense"))


def test_a_recurrence_has_no_blocks() -> None:
    f = attnspec.load("gla")
    with pytest.raises(attnspec.AttnError, match="`gla` is a recurrence, which has no blocks"):
        f(backend="blocked")


@pytest.mark.parametrize("name", ["of all heads", "of one head"])
def test_heads_in_blocks(name: str) -> None:
    """So few numbers that every head is a block of its own."""
    q, k, v = (torch.randn(1, 4, 3, 2, dtype=torch.float64) for _ in range(3))
    f = attnspec.compile(text(name))
    with limited(2):
        y = f(q, k, v, backend="blocked")
    torch.testing.assert_close(y, f(q, k, v, backend="dense"))


@pytest.mark.parametrize("backend", ["blocked", "dense"])
def test_what_a_zero_is_multiplied_by_has_a_derivative(backend: str) -> None:
    text = "attention a\nparam lam[h] = 0\nlet w[i, j] = exp(dot(q[i], k[j]))\nweight = lam * w"
    q, k, v = (torch.randn(1, 1, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    lam = torch.zeros(1, dtype=torch.float64, requires_grad=True)

    def mixed(y: Tensor) -> Tensor:
        [first] = torch.autograd.grad(y.sum(), q, create_graph=True)
        return torch.autograd.grad(first.square().sum() + first.sum(), lam)[0]

    wanted = mixed(lam * torch.exp(q @ k.mT) @ v)
    assert wanted.abs().item() > 1e-3
    torch.testing.assert_close(mixed(attnspec.compile(text)(q, k, v, lam, backend=backend)), wanted)


@pytest.mark.parametrize("backend", ["blocked", "dense"])
def test_a_branch_not_taken_ruins_no_second_derivative(backend: str) -> None:
    text = (
        "attention a\nlet x[i, j] = dot(q[i], k[j])\nweight = where(x[i, j] > 0, log(x[i, j]), 1.0)"
    )
    q, k, v = (torch.randn(1, 1, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    y = attnspec.compile(text)(q * torch.tensor([[0.0], [1.0], [2.0]]), k, v, backend=backend)
    [first] = torch.autograd.grad(y.sum(), q, create_graph=True)
    [second] = torch.autograd.grad(first.square().sum(), q)
    assert second.isfinite().all()


@pytest.mark.parametrize("backend", ["blocked", "dense"])
def test_a_second_derivative(backend: str) -> None:
    f = attnspec.compile(text("over the queries"))
    q, k, v = (torch.randn(1, 1, 4, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    with limited(8):
        assert torch.autograd.gradgradcheck(lambda *x: f(*x, backend=backend), (q, k, v))


@pytest.mark.parametrize("name", library.names()[::20])
def test_the_library_in_blocks(name: str) -> None:
    attention = attnspec.load(name)
    shape = {"b": 1, "h": 2, "heads": 1, "i": 5, "j": 6, "d": 4, "e": 3}
    seed = zlib.crc32(name.encode())
    case = Case(tuple(shape.items()), 1, 0, "float64", "contiguous", "normal", seed)
    outcome = hold(attention, case, "blocked")
    assert not outcome.problems, outcome.problems
