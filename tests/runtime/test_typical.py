"""Random arguments: they fit the call, and keep what the spec says of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnspec.codegen import library
from attnspec.dsl.ast import Spec
from attnspec.dsl.check import check
from attnspec.dsl.diagnostics import AttnError
from attnspec.dsl.parse import parse
from attnspec.runtime.bind import bind
from attnspec.runtime.reference import evaluate, initial
from attnspec.runtime.signature_of import signature
from attnspec.runtime.typical import Arguments, typical


def read(text: str) -> Spec:
    return check(parse(text))[0]


def tensor(given: Arguments, name: str) -> Tensor:
    value = given[name]
    assert isinstance(value, Tensor)
    return value


@pytest.mark.parametrize("name", library.names())
def test_the_reference_takes_what_is_drawn(name: str) -> None:
    spec = read(library.find(name)[0])
    given = typical(spec, batch=1, heads=2, length=16, channels=8, value_channels=12)
    bound = bind(signature(spec), (), given, lambda name, bound: initial(spec, name, bound))
    outputs = evaluate(spec, bound)
    results = [*outputs.extras.values(), *([] if outputs.output is None else [outputs.output])]
    assert results
    for result in results:
        assert not result.isnan().any()


def test_a_seed_decides() -> None:
    spec = read("attention x\nparam a[h]\nscore = dot(q[i], k[j]) * a\n")
    one, two, other = typical(spec), typical(spec), typical(spec, seed=1)
    for name in ("q", "k", "v", "a"):
        assert torch.equal(tensor(one, name), tensor(two, name))
        assert not torch.equal(tensor(one, name), tensor(other, name))


@pytest.mark.parametrize(
    ("fact", "low", "high"),
    [
        ("x > 0", 0, None),
        ("0 < x", 0, None),
        ("x <= -2", None, -2),
        ("0 < x <= 1", 0, 1),
        ("x >= 3 and x < 4", 3, 4),
        ("1 >= x and D > 1", None, 1),
    ],
)
def test_facts_hold(fact: str, low: float | None, high: float | None) -> None:
    spec = read(f"attention y\ninput x[b, h, j] where {fact}\nscore = x[j]\n")
    x = tensor(typical(spec, batch=8, heads=8, length=64), "x")
    assert low is None or x.min() > low
    assert high is None or x.max() < high
    assert x.std() > 0.05


def test_whole_numbers_stay_in_their_range() -> None:
    text = "attention y\ninput x[b, j]: int where 2 <= x < 5\nparam w[5]\nscore = w[x[j]]\n"
    x = tensor(typical(read(text), batch=4), "x")
    assert set(x.flatten().tolist()) == {2, 3, 4}


def test_a_grid_meets_its_requirements() -> None:
    text = "attention y\ngrid y, x\nrequire GY % 7 == 0 and GX > 8\nmask i.y == j.y\n"
    given = typical(read(text))
    assert (given["GY"], given["GX"]) == (14, 14)
    assert tensor(given, "q").shape[2] == 196


def test_fewer_key_heads() -> None:
    given = typical(read("attention y\nmask j <= i\n"), heads=6, kv_heads=2)
    heads = [tensor(given, name).shape[1] for name in "qkv"]
    assert heads == [6, 2, 2]


@pytest.mark.parametrize(
    ("fact", "heads"), [("H == 4", [4, 1, 1]), ("H % 6 == 0", [18, 9, 9]), ("H > 1", [16, 4, 4])]
)
def test_heads_meet_what_is_required_of_them(fact: str, heads: list[int]) -> None:
    given = typical(read(f"attention y\nrequire {fact}\nmask j <= i\n"), heads=16, kv_heads=4)
    assert [tensor(given, name).shape[1] for name in "qkv"] == heads


def test_requirements_that_no_size_meets() -> None:
    with pytest.raises(AttnError, match="y: no typical size meets what it requires"):
        typical(read("attention y\nrequire H > 100\nmask j <= i\n"))


@pytest.mark.parametrize(
    ("fact", "size"),
    [("i < size(l)", 40), ("j <= size(l)", 39), ("size(l) > 2 * N", 81), ("N == size(l)", 40)],
)
def test_a_size_that_only_an_input_tells_is_what_is_required(fact: str, size: int) -> None:
    text = f"attention y\naxis l\ninput r[h, l, d]\nrequire {fact}\nscore = dot(q[i], r[0]) + j\n"
    assert tensor(typical(read(text), length=40), "r").shape[1] == size


def test_a_size_is_as_large_as_the_greatest_of_several_requirements() -> None:
    spec = read(
        "attention a\naxis l\ninput r[h, l, d]\nrequire i < size(l)\nrequire j < size(l)\n"
        "score = dot(q[i] + r[i], k[j] + r[j])\n"
    )
    for rows, length in ((8, 40), (40, 8)):
        assert tensor(typical(spec, length=length, rows=rows), "r").shape[1] == 40
