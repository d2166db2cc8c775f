"""The facts of every library spec, held against its reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.codegen import library
from attnspec.dsl import ast
from attnspec.dsl.analysis import analyze
from attnspec.dsl.check import check
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


@pytest.mark.parametrize("name", MASKED)
def test_what_is_said_of_a_mask(name: str) -> None:
    """Causal, symmetric and row not empty, on every pair; of positions nothing goes unsaid."""
    spec, named = read(name)
    given = typical(spec, length=LENGTH)
    mask = mask_of(spec, given)
    square = mask.shape[2] == mask.shape[3]
    causal = not mask.triu(1).any()
    full_rows = bool(mask.any(3).all())
    if "causal" in named:
        assert causal
    if "row not empty" in named and square:
        assert full_rows
    if "symmetric" in named and square:
        assert torch.equal(mask, mask.mT)
    if reads_nothing(spec) and square:
        true = {"causal": causal, "symmetric": torch.equal(mask, mask.mT)}
        true["row not empty"] = full_rows
        unproved = {fact for fact, holds in true.items() if holds and fact not in named}
        assert unproved == UNPROVED.get(name, set())


# True at a typical size, and not proved: not so at every size, or the prover does not see it.
UNPROVED = {
    "axial_row_causal": {"causal"},  # needs j = j.y * GX + j.x
    "feature_groups": {"symmetric"},  # i < 4 * s says it of j too
    "gna": {"row not empty"},  # the leader's window, not the query's own place
    "in_context": {"row not empty"},  # train may be 0
    "natten_dilated": {"row not empty"},
    "off_diagonal": {"row not empty"},  # one token alone has no other
    "previous_frames": {"row not empty"},
    "radial": {"row not empty", "symmetric"},
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
