"""Every spec of the library against plain PyTorch, written from the paper's formula."""

from __future__ import annotations

import importlib
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.specs import chains, mixers, summaries, twice
from tests.specs.case import Argument, Case, joined
from torch import Tensor

import attnspec
from attnspec.dsl.ast import Spec
from attnspec.dsl.check import check
from attnspec.dsl.parse import parse
from attnspec.runtime.bind import bind
from attnspec.runtime.reference import evaluate
from attnspec.runtime.signature_of import signature

SPECS = Path(__file__).parents[2] / "specs"
NAMES = sorted(path.stem for path in SPECS.glob("*.attn"))
MODULES = [
    importlib.import_module(f"tests.specs.{path.stem}")
    for path in sorted(Path(__file__).parent.glob("*.py"))
    if not path.stem.startswith("test_")
]
FAMILIES = [module for module in MODULES if hasattr(module, "CASES")]
CASES: dict[str, Case] = {name: case for family in FAMILIES for name, case in family.CASES.items()}
ROW = re.compile(r"A:[IP]-\d\d|B:[IP]\d\d[a-z]?|C:(\d\d([a-z]|-\d)?|P\d\d)|D:(IN|P|G)-\d\d[a-z]?")


def read(name: str) -> Spec:
    """The checked spec, which must come without warnings."""
    text = (SPECS / f"{name}.attn").read_text(encoding="utf-8")
    spec, warnings = check(parse(text, f"{name}.attn"))
    assert warnings == ()
    return spec


def seed_of(name: str) -> int:
    """A seed of its own for each spec, the same in every run."""
    return zlib.crc32(name.encode())


def test_every_spec_has_a_case() -> None:
    assert sorted(CASES) == NAMES
    assert len(CASES) == sum(len(family.CASES) for family in FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_described(name: str) -> None:
    spec = read(name)
    assert spec.name == name
    assert len(spec.title) > 10
    assert spec.cites
    assert all(ROW.fullmatch(row) for row in spec.catalog)
    assert len(set(spec.catalog)) == len(spec.catalog)


def leaves(arguments: Mapping[str, Argument]) -> tuple[dict[str, Argument], dict[str, Tensor]]:
    """The arguments with fresh float tensors that record gradients, and those by name."""
    fresh = {
        name: value.detach().clone().requires_grad_(value.is_floating_point())
        if isinstance(value, Tensor)
        else value
        for name, value in arguments.items()
    }
    floats = {
        name: value
        for name, value in fresh.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    return fresh, floats


def gradients(output: Tensor, floats: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Gradients of a random weighting of the output; zero where nothing flows."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    found = torch.autograd.grad((output * weights).sum(), list(floats.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(floats.items(), found, strict=True)
    }


def by_reference(name: str, arguments: Mapping[str, Argument]) -> Tensor:
    """What the spec gives by the dense definition."""
    spec = read(name)
    bound = bind(signature(spec), (), {**arguments, **CASES[name].extent})
    outputs = evaluate(spec, bound)
    every = {**outputs.extras, "output": outputs.output}
    found = [every[each] for each in CASES[name].returned]
    return joined([part for part in found if part is not None])


def by_tiles(name: str, arguments: Mapping[str, Argument]) -> Tensor:
    """What the spec gives by its plan on the CPU, as a user calls it."""
    case = CASES[name]
    given: dict[str, Any] = {**arguments, **case.extent}
    output, extras = attnspec.load(name)(**given, extras=True, backend="cpu")
    every = {**extras, "output": output}
    return joined([every[each] for each in case.returned])


@pytest.mark.parametrize("way", [by_reference, by_tiles])
@pytest.mark.parametrize("name", NAMES)
def test_formula(name: str, way: Callable[[str, Mapping[str, Argument]], Tensor]) -> None:
    case, seed = CASES[name], seed_of(name)
    arguments = case.draw(seed)
    given, floats = leaves(arguments)
    output = way(name, given)
    found = gradients(output, floats, seed)
    given, floats = leaves(arguments)
    expected_output = case.expected(given)
    expected = gradients(expected_output, floats, seed)
    torch.testing.assert_close(output, expected_output, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())


# A row of these needs more than its own place: a grid, a recurrence, all queries at once.
WHOLE = {name for name, case in CASES.items() if case.grid or case.m < 5}
WHOLE |= {name for name, case in CASES.items() if case.returned != ("output",)}
WHOLE |= {*mixers.CASES, *chains.CASES, *twice.CASES, *summaries.CASES}
WHOLE |= {
    "additive_pooling",
    "associative_memory",
    "bipartite_halves",
    "branch_merge",
    "budgeted_residual",
    "convolutional_positions",
    "gated_delta",
    "gla",
    "guided_context",
    "guided_wkv",
    "hashed_linear",
    "hashed_linear_self",
    "head_tokens",
    "leading_queries",
    "moving_average_gate",
    "relative_convolutional",
    "selective_lookup",
    "slot",
}


@pytest.mark.parametrize("name", sorted(set(NAMES) - WHOLE))
def test_last_rows_alone(name: str) -> None:
    """The last queries alone, their first position given, get what they got among all."""
    case, skipped = CASES[name], 3
    attention = attnspec.load(name)
    arguments = case.draw(seed_of(name))
    places = {a.name: a.axes.index("i") for a in attention.signature.arguments if "i" in a.axes}
    last: dict[str, Any] = {
        at: value.narrow(places[at], skipped, case.m - skipped)
        if isinstance(value, Tensor) and at in places
        else value
        for at, value in arguments.items()
    }
    every: dict[str, Any] = {**arguments, **case.extent}
    whole = attention(**every, backend="cpu")
    alone = attention(**last, q_start=case.q_start + skipped, backend="cpu")
    torch.testing.assert_close(alone, whole[:, :, skipped:], rtol=1e-9, atol=1e-10)
