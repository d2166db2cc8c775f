"""Calls that go round PyTorch's dispatcher, and what makes them go through it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import attnspec
from attnspec.runtime.kernel import Kernel
from attnspec.runtime.operation import watched


class Looking(TorchDispatchMode):
    """Changes nothing."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


class Named(Tensor):
    """A tensor of another class."""


def tensors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, 9, 4, generator=generator).requires_grad_() for _ in range(3)]


def profiled() -> AbstractContextManager[Any]:
    found: AbstractContextManager[Any] = torch.autograd.profiler.profile()
    return found


@pytest.mark.parametrize(
    ("context", "through"),
    [
        (contextlib.nullcontext, False),
        (Looking, True),
        (BaseTorchFunctionMode, True),
        (profiled, True),
    ],
)
def test_who_looks_on_sees_the_operation(
    context: Callable[[], AbstractContextManager[Any]], through: bool
) -> None:
    attention, inputs = attnspec.load("causal"), tensors()
    plain = attention(*inputs)
    expected = torch.autograd.grad(plain.square().sum(), inputs)
    with context():
        found = attention(*inputs)
        assert ("attnspec_causal" in found.grad_fn.name()) == through  # type: ignore[union-attr]
        given = torch.autograd.grad(found.square().sum(), inputs)
    assert torch.equal(found, plain)
    assert all(torch.equal(x, y) for x, y in zip(given, expected, strict=True))


def test_what_counts_as_looking_on() -> None:
    x = torch.zeros(2)
    assert not watched([x, torch.nn.Parameter(x)])
    assert watched([x, x.as_subclass(Named)])
    assert watched([x.to("meta")])
    seen = []

    def look(row: Tensor) -> Tensor:
        seen.append(watched([row]))
        return row

    torch.func.vmap(look)(torch.zeros(2, 3))
    assert seen == [True]


def test_a_profile_names_the_operation() -> None:
    inputs = tensors()
    with torch.profiler.profile() as found:
        attnspec.load("causal")(*inputs).sum().backward()
    names = {event.key for event in found.key_averages()}
    assert any(n.startswith("attnspec::causal") and n.endswith("forward") for n in names)
    assert any(n.startswith("attnspec::causal") and n.endswith("backward") for n in names)


def test_what_is_not_recorded_needs_no_gradient() -> None:
    inputs = tensors()
    with torch.no_grad():
        assert attnspec.load("causal")(*inputs).grad_fn is None
    with torch.inference_mode():
        assert attnspec.load("causal")(*inputs).is_inference()
    assert attnspec.load("causal")(*(x.detach() for x in inputs)).grad_fn is None


def test_a_kernel_becomes_tritons_when_it_is_used() -> None:
    kernel = attnspec.load("causal")._generated.KERNELS["forward"]
    assert isinstance(kernel, Kernel)
    assert list(kernel.arg_names) == list(kernel.jit.arg_names)
    assert kernel.jit is kernel.jit


@pytest.mark.parametrize("backend", ["cpu", "native", "blocked", "dense"])
def test_autocast_makes_nothing_less_exact(backend: str) -> None:
    """Whatever part of a call stands under it; a backward that is PyTorch's own obeys it."""
    attention, inputs = attnspec.load("causal"), tensors()

    def results(forward: bool, backward: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=forward):
            out = attention(*inputs, backend=backend)
        with torch.autocast("cpu", torch.bfloat16, enabled=backward):
            return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    plain = results(False, False)
    ours = ((False, True), (True, True)) if backend in ("cpu", "native") else ()
    for forward, backward in ((True, False), *ours):
        for have, want in zip(results(forward, backward), plain, strict=True):
            assert torch.equal(have, want)
