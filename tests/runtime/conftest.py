"""Holding the reference against hand-written PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attnspec.dsl.ast import Spec
from attnspec.dsl.check import check
from attnspec.dsl.parse import parse
from attnspec.runtime.bind import bind
from attnspec.runtime.reference import Outputs, evaluate, initial
from attnspec.runtime.signature_of import signature


def spec_of(text: str) -> Spec:
    """The checked spec of `text`; the first line may be left out."""
    return check(parse(text if text.lstrip().startswith("attention") else "attention a\n" + text))[
        0
    ]


def run(text: str, **arguments: Any) -> Outputs:
    """The outputs of a spec in the dtype of its arguments."""
    spec = spec_of(text)
    bound = bind(signature(spec), (), arguments, lambda n, b: initial(spec, n, b))
    return evaluate(spec, bound, bound.dtype)


def random_leaf(*shape: int) -> Tensor:
    """Normal float64 numbers with gradient."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def agree(got: Tensor, want: Tensor, leaves: list[Tensor]) -> None:
    """Hold values and the gradients of all leaves against each other."""
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    if not leaves:
        return
    back = torch.randn_like(want)
    ours = torch.autograd.grad(got, leaves, back, allow_unused=True, retain_graph=True)
    theirs = torch.autograd.grad(want, leaves, back, allow_unused=True, retain_graph=True)
    for leaf, a, b in zip(leaves, ours, theirs, strict=True):
        zero = torch.zeros_like(leaf)
        torch.testing.assert_close(
            zero if a is None else a,
            zero if b is None else b,
            rtol=1e-8,
            atol=1e-9,
        )


def same(text: str, formula: Callable[..., Tensor], **arguments: Any) -> None:
    """Hold a spec's output and every gradient against `formula(**arguments)`.

    Keywords that are not the formula's own business (grids, starts) reach it all the same.
    """
    got = run(text, **arguments).output
    assert got is not None
    leaves = [x for x in arguments.values() if isinstance(x, Tensor) and x.requires_grad]
    assert leaves
    agree(got, formula(**arguments), leaves)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
