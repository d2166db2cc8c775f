"""Specs with a few words changed: each is read and checked, or refused with an AttnError."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnspec.dsl.ast import Spec
from attnspec.dsl.check import check
from attnspec.dsl.diagnostics import AttnError
from attnspec.dsl.parse import parse

WORD = re.compile(r'"""[\s\S]*?"""|"[^"\n]*"|\w+|\*\*|//|[<>=!]=|\s+|[^\w\s]')


def words(text: str) -> list[str]:
    return WORD.findall(text)


@settings(derandomize=True, max_examples=6, deadline=None)
@given(data=st.data())
def test_a_damaged_spec_is_checked_or_refused(
    examples: dict[str, str], data: st.DataObject
) -> None:
    texts = [words(text) for text in examples.values()]
    known = sorted({word for text in texts for word in text})
    for text in texts:
        damaged = list(text)
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(damaged) - 1))
            new = data.draw(st.lists(st.sampled_from(known), max_size=2))
            damaged[place : place + data.draw(st.integers(0, 2))] = new
            damaged = damaged or [" "]
        sound("".join(damaged))


# Found by changing words at random.
FOUND = {
    "an output of bools": "output = v[i] >= 0",
    "a definition that only an unused state reads": (
        "axis s = 3\ninput s0[b, h, i, e]\nstate u[i, e] over s = s0\n"
        "let a[i, j] = softmax(dot(u[s - 1, i, d], k[j]), over=i) + 1e-8\n"
        "step u[s] = sum(j, a * v[j]) / sum(j, a)"
    ),
    "facts that contradict each other": (
        "grid y, x\nparam W[64, 64] = 0\nrequire GY % 8 == 8 and GX % 8 == 0\n"
        "let cell(z) = z.y // (GY // 8) * 8 + z.x // (GX // 0)\n"
        "mask i.y % (GY // 8) == j.y % (GY // 8) and i.x % (GX // 8) == j.x % (GX // 8)\n"
        "weight = W[cell(i), cell(j)]"
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name: str) -> None:
    sound(f"attention x\n{FOUND[name]}\n")


def sound(text: str) -> None:
    try:
        spec, warnings = check(parse(text))
    except AttnError as error:
        found = error.diagnostics
        assert any(d.severity == "error" for d in found)
    else:
        found = warnings
        assert isinstance(spec, Spec)
        assert all(d.severity == "warning" for d in found)
    for diagnostic in found:
        assert 0 <= diagnostic.span.start <= diagnostic.span.end <= len(text) + 1
        assert diagnostic.help
