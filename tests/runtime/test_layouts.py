"""Launches are laid out once for each kind of call, and as each call would be alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime import launch, tiles
from attnspec.runtime.aot import call_of
from attnspec.runtime.arrange import Layout, arrange, layout, visited
from attnspec.runtime.calls import Calls
from attnspec.runtime.kernel import Kernel
from attnspec.runtime.problem import Problem, kind_within
from attnspec.runtime.tiles import INTERPRETED

TEXT = """
attention kinds
input doc[b, n]: int
input keep[b, i, j]: bool
input scale: float = 2.0
param slope[h] = 1
param table[h, 5] = 0.1
mask keep[i, j] and doc[i] == doc[j] and j <= i
score = scale * dot(q[i], k[j]) - slope * (i - j) + table[clamp(i - j, 0, 4)]
"""
LENGTH = 40


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that are laid out from now on, as under the interpreter."""
    seen: list[str] = []

    def counted(call: Problem, name: str, *args: Any) -> Layout:
        seen.append(name)
        return layout(call, name, *args)

    monkeypatch.setattr(launch, "_tile", lambda call, name: INTERPRETED)
    monkeypatch.setattr(launch, "_parts", lambda call, tile: 1)
    monkeypatch.setattr(launch, "layout", counted)
    return seen


def tensors(seed: int = 0, *, length: int = LENGTH) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    floats = (torch.randn(1, 2, length, 4, generator=generator) for _ in range(3))
    given: dict[str, Any] = dict(zip(("q", "k", "v"), floats, strict=True))
    given["doc"] = torch.randint(0, 3, (1, length), generator=generator).sort().values
    given["keep"] = torch.rand(1, length, length, generator=generator) < 0.9
    return given


def called(given: Mapping[str, Any]) -> Problem:
    return call_of(attnspec.compile(TEXT)._generated, given)


def kernels() -> dict[str, Kernel]:
    """The module's, none of which was launched."""
    found = attnspec.compile(TEXT)._generated.KERNELS
    return {name: Kernel(kernel.function, kernel.unspecialized) for name, kernel in found.items()}


def laid(call: Problem, kernel: Kernel) -> Layout:
    return launch.laid_out(call, call.kind, "forward", kernel, {})


def turned(x: Tensor) -> Tensor:
    """The same numbers in other strides."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


OTHERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "strides": lambda given: {"q": turned(given["q"])},
    "strides of a leaf": lambda given: {"keep": given["keep"].mT.contiguous().mT},
    "a leaf of one batch": lambda given: {"doc": given["doc"].int()},
    "dtype": lambda given: {n: given[n].half() for n in ("q", "k", "v")},
    "length": lambda given: tensors(length=LENGTH + 1),
    "heads of keys": lambda given: {n: given[n][:, :1] for n in ("k", "v")},
    "batch": lambda given: {n: torch.cat([x, x]) for n, x in given.items()},
    "channels": lambda given: {"v": given["v"][..., :3]},
}


@pytest.mark.parametrize("other", OTHERS)
def test_kinds_do_not_mix(other: str, made: list[str]) -> None:
    given, kernel = tensors(), kernels()["forward"]
    one, two = called(given), called({**given, **OTHERS[other](given)})
    first, second = laid(one, kernel), laid(two, kernel)
    assert laid(one, kernel) is first
    assert laid(two, kernel) is second
    assert made == ["forward"] * 2
    pointers = {n: x.zero_() for n, x in zip(("out", "lse"), launch.outputs(two), strict=True)}
    visits = visited(two, "forward", INTERPRETED)
    args = second.filled({**two.tensors, **pointers, **visits}, two.every_number)
    alone = arrange(two, "forward", kernel.arg_names, pointers, INTERPRETED)
    for x, y in zip(args, alone, strict=True):
        assert torch.equal(x, y) if isinstance(x, Tensor) else repr(x) == repr(y)


def test_whole_numbers_are_not_repeated_for_heads() -> None:
    found = called(OTHERS["batch"](tensors())).tensors
    assert {found[name].shape for name in ("u_doc", "u_doc_2")} == {(2, 1, LENGTH)}
    assert found["u_slope"].shape == (2, 2)


def test_a_known_call_tells_how_its_operands_lie() -> None:
    module = attnspec.compile(TEXT)._generated
    calls = Calls(module.CALLS.signature, module.CALLS.initial)

    def kind(given: dict[str, Any], **others: Tensor) -> Any:
        call = called(given)
        same = {n: given[n[2:]] for n in ("u_q", "u_k")}  # what a call with gradients has, too
        tensors = {**call.tensors, **same, **others}
        return kind_within(call._replace(tensors=tensors), calls.bind(given))

    first = kind(tensors())
    assert first == kind(tensors(1))
    assert len(first) < len(called(tensors()).kind)
    assert first != kind({**tensors(), "q": turned(tensors()["q"])})
    assert first != kind(tensors(), u_q=tensors()["q"])  # another tensor than the argument
    assert kind(tensors(), u_q=tensors()["q"]) != kind(tensors(), u_q=turned(tensors()["q"]))


def test_numbers_that_tiles_are_chosen_by_decide(made: list[str]) -> None:
    attention, given = attnspec.load("softcap"), tensors()
    given = {name: given[name].half() for name in ("q", "k", "v")}
    kernel = attention._generated.KERNELS["forward"]
    kernel, fixed = Kernel(kernel.function, kernel.unspecialized), []
    for cap in (5.0, 500.0, 5.0):
        call = call_of(attention._generated, {**given, "cap": cap})
        how = laid(call, kernel)
        fixed.append(how.args[kernel.arg_names.index("FIXED")])
    assert fixed[0] == fixed[2] != fixed[1]
    assert made == ["forward"] * 2


def test_outputs_are_like_those_of_the_first_call(made: list[str]) -> None:
    kernel = kernels()["forward"]
    known = []
    for seed in range(3):
        call = called(tensors(seed))
        whole = launch.outputs(call)
        how = launch.laid_out(call, call.kind, "forward", kernel, {}, whole)
        known.append(launch.outputs_again(call, how))
        for x, y in zip(known[-1], whole, strict=True):
            assert (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride())
    assert len({x.data_ptr() for made in known for x in made}) == 6
    assert made == ["forward"]


def test_values_of_tensors_decide_nothing(made: list[str]) -> None:
    """What a mask's inputs decide is each launch's own."""
    kernel = kernels()["forward"]
    first = laid(called(tensors()), kernel)
    for seed in range(1, 20):
        call = called(tensors(seed))
        assert laid(call, kernel) is first
        visits = visited(call, "forward", INTERPRETED)
        assert layout(call, "forward", kernel.arg_names, {}, visits, INTERPRETED) == first
    assert made == ["forward"]


def test_numbers_are_those_of_the_launch(made: list[str]) -> None:
    """Of numbers that are equal, too, and first positions."""
    kernel, found = kernels()["forward"], []
    for scale, start in ((0.0, 0), (-0.0, 0), (0.0, 0), (0.0, 3)):
        call = called({**tensors(), "scale": scale, "q_start": start, "k_start": start})
        filled = laid(call, kernel).filled(dict.fromkeys(_pointers(kernel)), call.every_number)
        found.append(repr(filled))
    assert found[0] == found[2]
    assert len(set(found)) == 3
    assert made == ["forward"]


def _pointers(kernel: Kernel) -> list[str]:
    return [name[2:] for name in kernel.arg_names if name.startswith("p_")]


class Launched(list[Any]):
    """A Triton kernel that only notes its launches."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **options: self.append((grid, args, options))


def test_a_training_step_is_laid_out_once(made: list[str]) -> None:
    mine = kernels()
    for kernel in mine.values():
        vars(kernel)["jit"] = Launched()
    plan = attnspec.compile(TEXT)._generated.PAIRWISE
    for seed in range(3):
        call = called(tensors(seed))
        args = (*call.tensors.values(), *call.numbers.values(), *call.sizes)
        saved = launch.run_forward(plan, mine, args, "triton")
        flowing = (torch.randn_like(saved[0]), None)
        for need in (True, False):  # a leaf without a gradient is no other kind
            needs = [name in plan.names[:3] or need for name in plan.grads]
            launch.run_backward(plan, mine, flowing, saved, args, "triton", needs)
    assert sorted(made) == sorted(mine)
    assert all(len(vars(kernel)["jit"]) >= 3 for kernel in mine.values())


def test_a_tile_on_trial_is_laid_out_alone(made: list[str]) -> None:
    call, kernel = called(tensors()), kernels()["forward"]
    before = laid(call, kernel)
    with tiles.trial(tiles.Key("cuda:90", "forward", "light", 16, wide=False), INTERPRETED):
        assert laid(call, kernel) is not before
    assert laid(call, kernel) is before
    assert len(made) == 2
