"""Functions whose derivative shares a part of their value: whole, or expanded into such parts.

The forward keeps every function whole, which on the CPU is one call. The backward needs values and
derivatives, and takes whichever form has fewer operations a pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attnspec.codegen.keep import weight
from attnspec.codegen.lower import Builder
from attnspec.codegen.plan_types import Form
from attnspec.codegen.tile import needed
from attnspec.dsl.analysis import symbolic


def backward_form(
    build: Builder, score: Any, names: list[str], softmax: bool
) -> tuple[Any, tuple[Form, ...]]:
    """`score` as the backward computes it, and what decided on each function of a pair in it;
    `names` are what it is differentiated by."""
    choices = []
    for op, expand in symbolic.EXPANSIONS.items():
        expanded = score.xreplace({x: expand(*x.args) for x in _of_pairs(build, score, op)})
        if expanded != score:
            whole, parts = (_price(build, x, names, softmax) for x in (score, expanded))
            choices.append(Form(op, parts < whole, whole, parts))
            score = expanded if parts < whole else score
    return score, tuple(choices)


def _of_pairs(build: Builder, score: Any, op: str) -> Iterator[Any]:
    """Where a score has the function `op` of something that differs between pairs."""
    for found in score.atoms(symbolic.FUNCTIONS[op]):
        if build.tape.class_of(str(x.name) for x in found.free_symbols) == "ij":
            yield found


def _price(build: Builder, score: Any, names: list[str], softmax: bool) -> int:
    """Operations of both backward loops; that by rows needs no value where it is the weight."""
    value = build.printed(score)
    slopes = [build.printed(x) for x in symbolic.derivatives(score, names).values()]
    loops = ([value, *slopes], [value, *slopes] if softmax else slopes)
    return sum(weight(needed(build.tape.ops, roots)) for roots in loops)
