"""The facts of every library spec, held against its reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.generator import generate
from torch import Tensor

import attnspec
from attnspec.codegen import library
from attnspec.dsl import ast
from attnspec.dsl.analysis import analyze
from attnspec.dsl.check import check
from attnspec.dsl.diagnostics import AttnError
from attnspec.dsl.parse import parse
from attnspec.runtime.bind import bind
from attnspec.runtime.reference import evaluate, initial
from attnspec.runtime.signature_of import signature
from attnspec.runtime.typical import Arguments, typical

LENGTH = 27
PAIR = ("b", "h", "i", "j")


def read(name: str) -> tuple[ast.Spec, frozenset[str]]:
    """A spec and the names of its facts."""
    spec, _ = check(parse(*library.find(name)))
    return spec, frozenset(fact.name for fact in analyze(spec).facts)


def mask_of(spec: ast.Spec, given: Arguments) -> Tensor:
    """The mask over every pair [B, H, M, N]."""
    assert spec.mask is not None
    asked = ast.Return("drawn", PAIR, spec.mask)
    spec = replace(spec, output=None, returns=(asked,))
    bound = bind(signature(spec), (), given, lambda name, bound: initial(spec, name, bound))
    return evaluate(spec, bound).extras["drawn"].bool()


MASKED = [name for name in library.names() if read(name)[0].mask is not None]


def hold(spec: ast.Spec, named: frozenset[str], length: int) -> set[str]:
    """Fail unless what is said of the mask is so on every pair; what is so and goes unsaid."""
    given = typical(spec, length=length)
    mask = mask_of(spec, given)
    if "translation-invariant" in named and not spec.grids:
        assert torch.equal(mask, mask_of(spec, {**given, "q_start": 7, "k_start": 7})), spec.text
    if mask.shape[2] != mask.shape[3]:
        return set()
    true = {
        "causal": not mask.triu(1).any(),
        "symmetric": torch.equal(mask, mask.mT),
        "row not empty": bool(mask.any(3).all()),
    }
    assert all(holds for fact, holds in true.items() if fact in named), (true, named, spec.text)
    return {fact for fact, holds in true.items() if holds and fact not in named}


@pytest.mark.parametrize("name", MASKED)
def test_what_is_said_of_a_mask(name: str) -> None:
    """Causal, symmetric and row not empty, on every pair; of positions nothing goes unsaid."""
    spec, named = read(name)
    unsaid = hold(spec, named, LENGTH)
    if reads_nothing(spec):
        assert unsaid == UNPROVED.get(name, set())


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_what_is_said_of_random_masks(first: int) -> None:
    said = 0
    for seed in range(first, first + 50):
        try:
            spec, _ = check(parse(generate(seed)))
        except AttnError:  # a mask without a pair
            continue
        if spec.mask is not None:
            named = frozenset(fact.name for fact in analyze(spec).facts)
            said += len(named & {"causal", "symmetric", "row not empty"})
            for length in (9, LENGTH):
                hold(spec, named, length)
    assert said > 10


# True at a typical size, and not proved: not so at every size, or the prover does not see it.
UNPROVED = {
    "axial_row_causal": {"causal"},  # needs j = j.y * GX + j.x
    "cross_gating": {"row not empty"},  # a head is one that mixes in blocks or is not
    "feature_groups": {"symmetric"},  # i < 4 * s says it of j too
    "gna": {"row not empty"},  # the leader's window, not the query's own place
    "halo": {"symmetric"},  # a small grid is one block
    "halo_downsampled": {"row not empty"},  # the key at twice the query's place
    "in_context": {"row not empty"},  # train may be 0
    "natten_dilated": {"row not empty"},
    "off_diagonal": {"row not empty"},  # one token alone has no other
    "previous_frames": {"row not empty"},
    "radial": {"row not empty", "symmetric"},
    "temporal_gaussian": {"causal"},  # needs j = j.f * GY * GX + ...
}


def reads_nothing(spec: ast.Spec) -> bool:
    """Whether positions, sizes and scalars alone make the mask."""
    assert spec.mask is not None
    return not any(isinstance(node, ast.Read) and node.index for node in ast.walk(spec.mask))


@pytest.mark.parametrize("name", library.names())
def test_only_the_distance_of_the_starts_counts(name: str) -> None:
    spec, named = read(name)
    if spec.grids or not {"translation-invariant", "position-free"} & named:
        pytest.skip("not said of it")
    if any({"i", "j"} & fact.free for fact in spec.requires):
        pytest.skip("its tables end somewhere")
    attention = attnspec.load(name)
    given = typical(spec, batch=1, length=LENGTH)
    starts = [(0, 0), (7, 7)]
    if not attention.signature.across:  # else the rows must be those of the queries
        starts = [(3, 0), (8, 5) if "translation-invariant" in named else (1, 6)]
    found = [
        attention.reference(**given, q_start=q_start, k_start=k_start, extras=True)
        for q_start, k_start in starts
    ]
    (one, extras), (two, others) = found
    for a, b in [(one, two), *((extras[key], others[key]) for key in extras)]:
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
