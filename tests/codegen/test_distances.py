"""What pairs compute of their distance alone, and what the host makes of no tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.codegen.fixed import without_tensors
from attnspec.codegen.rewrite_distances import STEP, of_distance
from attnspec.dsl.ast import Expr
from attnspec.runtime.verify import verify


def score(text: str) -> Expr:
    found = attnspec.compile(f"attention a\nscore = {text}").spec.definition("score")
    assert found is not None
    return found.expr


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("1.0 * abs(i - j)", True),
        ("cos(0.1 * (2 * i - 2 * j + 3))", True),
        ("where(2 * j < 2 * i + 5, 1.0, 2.0)", True),
        ("1.0 * ((i - j) // 3 % 5)", True),
        ("exp(-(log2(1 + abs(j - i)) ** 2))", True),
        ("cos(0.1 * (i + j))", False),
        ("1.0 * abs(2 * i - j)", False),
        ("where(2 * i > j, 1.0, 2.0)", False),
        ("where(i > 3, 1.0, 2.0)", False),
        ("1.0 * (i // 2 - j // 2)", False),
        ("sin(0.1 * i - 0.1 * j)", False),  # of floats nothing is said
    ],
)
def test_what_depends_on_the_distance_alone(text: str, yes: bool) -> None:
    assert of_distance(score(text), "i", "j") is yes


WRITTEN = """attention a
input few: int = 3
param bias[h, 40] = 0
mask {mask}
let bucket = clamp(floor(4 * log2(1 + abs(i - j))) - few, 0, 39)
score = dot(q[i], k[j]) + bias[bucket] - 0.1 * log1p(abs(j - i))
"""


@pytest.mark.parametrize("backend", ["cpu", "native"])
@pytest.mark.parametrize("mask", ["j <= i + 3", "abs(i - j) < 9 and i % 3 != 1"])
def test_a_table_of_distances_holds(mask: str, backend: str) -> None:
    """Of as many queries as keys and not, from any positions on."""
    attention = attnspec.compile(WRITTEN.format(mask=mask))
    assert "rel_1" in attention.source
    report = verify(attention, cases=12, seed=1, backend=backend)
    assert report.ok, str(report)


@pytest.mark.parametrize(
    "own",
    [
        "input rel_0[h]\nscore = dot(q[i], k[j]) + rel_0 * log1p(abs(i - j))",
        "let rel_0[i] = mean(d, q[i])\nscore = dot(q[i], k[j]) * rel_0[i] + log1p(abs(i - j))",
    ],
)
def test_a_table_has_a_name_of_its_own(own: str) -> None:
    attention = attnspec.compile(f"attention a\n{own}")
    assert "u_rel_1" in attention.source
    report = verify(attention, cases=4, seed=1, backend="cpu")
    assert report.ok, str(report)


def test_a_call_without_tokens_has_no_distances() -> None:
    attention, x = attnspec.compile(WRITTEN.format(mask="j <= i")), torch.ones(1, 2, 9, 4)
    for rows, columns in ((0, 0), (0, 9), (9, 0), (1, 1)):
        q, k = x[:, :, :rows], x[:, :, :columns]
        assert attention(q, k, k, bias=torch.ones(2, 40)).shape == q.shape


@pytest.mark.parametrize(
    "term",
    [
        "0.1 * abs(i - j)",  # sooner computed than looked up
        "log1p(abs(i + j))",
        "log1p(abs(scale) * abs(i - j))",
        "log1p(abs(x[i] - x[j]))",
    ],
)
def test_what_no_table_is_made_of(term: str) -> None:
    text = f"attention a\nparam scale = 1\ninput x[n]\nscore = dot(q[i], k[j]) + {term}"
    text = text if "scale" in term else text.replace("param scale = 1\n", "")
    text = text if "x[" in term else text.replace("input x[n]\n", "")
    assert "rel_0" not in attnspec.compile(text).source


def given(length: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(length)
    return {n: torch.randn(1, 2, length, 4, generator=generator) for n in "qkv"}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the tables that are made from now on."""
    sizes: list[int] = []
    arange = torch.arange

    def counted(size: int, *args: Any, **kwargs: Any) -> Tensor:
        sizes.append(size)
        return arange(size, *args, **kwargs)

    monkeypatch.setattr(torch, "arange", counted)
    return sizes


def test_a_table_is_made_once_for_calls_alike(made: list[int]) -> None:
    attention, bias = attnspec.compile(WRITTEN.format(mask="j < i + 2")), torch.randn(2, 40)

    def tables(length: int, **numbers: Any) -> int:
        made.clear()
        call = {**given(length), "bias": bias, **numbers}
        found: Tensor = attention(**call, backend="native")
        again: Tensor = attention.reference(**call)
        torch.testing.assert_close(found.double(), again, rtol=1e-4, atol=1e-5)
        return made.count(2 * STEP)

    assert [tables(30), tables(30)] == [1, 0]
    assert [tables(31), tables(30, q_start=4), tables(30, q_start=STEP)] == [0, 0, 1]
    assert [tables(30, few=5), tables(30, few=5)] == [1, 0]


def test_a_decoder_makes_no_table_at_every_step(made: list[int]) -> None:
    """Of a cache that grows, and of one that does not."""
    attention, bias = attnspec.compile(WRITTEN.format(mask="j < i + 1")), torch.randn(2, 40)
    whole, last = given(60), given(1)
    for length in range(40, 60):
        k, v = (whole[n][:, :, :length] for n in "kv")
        for cache in ((k, v), (whole["k"], whole["v"])):
            found: Tensor = attention(last["q"], *cache, bias=bias, q_start=length - 1)
            again: Tensor = attention.reference(last["q"], k, v, bias=bias, q_start=length - 1)
            torch.testing.assert_close(found.double(), again, rtol=1e-4, atol=1e-5)
    assert made.count(2 * STEP) == 2  # one each


def test_what_is_made_once_is_made_of_the_numbers_of_the_call() -> None:
    attention = attnspec.compile(
        "attention a\ninput rate: float = 0.1\n"
        "score = dot(q[i] * cos(rate * i) / (1 + N), k[j] * sin(j))"
    )
    assert "fixed(" in attention.source
    for length in (9, 10, 9):
        for numbers in ({"rate": 0.5}, {"rate": 0.7}, {"rate": 0.7, "q_start": 2}):
            call: dict[str, Any] = {**given(length), **numbers}
            found: Tensor = attention(**call)
            again: Tensor = attention.reference(**call)
            torch.testing.assert_close(found.double(), again, rtol=1e-4, atol=1e-5)


def test_what_is_made_once_has_the_sizes_of_the_call() -> None:
    """A sink without tensors has as many rows as there are queries."""
    attention = attnspec.compile("attention a\nweight = softmax(score, sink=0)")
    for length in (9, 11, 9):
        call = {n: x.requires_grad_() for n, x in given(length).items()}
        found: Tensor = attention(**call)
        again: Tensor = attention.reference(**given(length))
        torch.testing.assert_close(found.double(), again, rtol=1e-4, atol=1e-5)
        found.sum().backward()


def test_what_is_made_once_is_as_exact_as_any_call_wants() -> None:
    attention = attnspec.compile(
        "attention a\naxis r = 4\nlet f[i, r] = cos(0.3 * i * r)\n"
        "let w[d, r] = sin(0.7 * d + r)\n"
        "score = dot(q[i] + w @ f[i], k[j])"
    )
    call = given(9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention(**call)
    torch.testing.assert_close(
        attention(**call).double(), attention.reference(**call), rtol=1e-5, atol=1e-6
    )


def test_many_things_are_made_once() -> None:
    """More than one line has room for."""
    turns = "".join(f"input rate{n}: float = 0.{n}\n" for n in range(1, 9))
    terms = " + ".join(
        f"dot(q[i] * cos(rate{n} * i), k[j] * sin(rate{n} * j))" for n in range(1, 9)
    )
    attention = attnspec.compile(f"attention a\n{turns}score = {terms}")
    found: Tensor = attention(**given(7))
    again: Tensor = attention.reference(**given(7))
    torch.testing.assert_close(found.double(), again, rtol=1e-4, atol=1e-5)


def test_a_table_made_in_inference_mode_serves_gradients() -> None:
    attention = attnspec.compile(WRITTEN.format(mask="j < i"))
    inputs = {**given(33), "bias": torch.randn(2, 40)}
    for _ in range(2):
        with torch.inference_mode():
            attention(**inputs)
    leaves = {n: x.requires_grad_() for n, x in inputs.items()}
    attention(**leaves).sum().backward()
    assert leaves["bias"].grad is not None


def test_what_the_caller_gets_is_made_anew() -> None:
    attention = attnspec.compile(
        "attention a\nmask j <= i\nscore = dot(q[i], k[j]) + cos(0.3 * i)\n"
        "return place[i] = cos(0.3 * i)"
    )
    for _ in range(3):
        _, extras = attention(**given(8), extras=True)
        torch.testing.assert_close(extras["place"], torch.cos(0.3 * torch.arange(8.0)))
        extras["place"].zero_()


def test_statements_without_tensors_are_found() -> None:
    steps = [
        [
            'a1 = torch.arange(size["i"], device=bound.device)',
            'a2 = number["n"] + 1',
            "a3 = a1 * a2",
            'a4 = tensor["x"] + a3',
            'hold(a1, "a", "b")',
            'a5 = torch.arange(size["j"], device=bound.device)',
            "a6 = a5 + a2",
            'w1 = torch.arange(size["j"], device=bound.device)',
        ],
        ["w1 = w1 + out", "a7 = a3 + 1", "a8 = bound.tensors"],
    ]
    fixed, left = without_tensors(steps, ["a7", "int(a2)"], ["result = out + a6"])
    assert fixed.names == ("a1", "a3", "a7")
    assert fixed.numbers == ("a2", 'size["i"]')
    assert fixed.before == (steps[0][1],)
    assert fixed.lines == (steps[0][0], steps[0][1], steps[0][2], steps[1][1])
    assert left[0] == tuple(steps[0][3:])
    assert left[1] == (steps[1][0], steps[1][2])
