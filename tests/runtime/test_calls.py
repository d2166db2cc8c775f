"""Calls that are bound without their checks, since one of their kind has passed them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime import calls
from attnspec.runtime.bind import bind
from attnspec.runtime.calls import Calls, kind_of
from attnspec.runtime.memo import Memo


def tensors(*shape: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(*shape, generator=generator, dtype=dtype) for _ in range(3))
    return dict(zip(("q", "k", "v"), drawn, strict=True))


def of(name: str) -> Calls:
    """The calls of a library spec's module, none of which has passed."""
    found = attnspec.load(name)._generated.CALLS
    return Calls(found.signature, found.initial)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the specs whose calls are checked, from now on."""
    seen: list[str] = []
    whole = bind

    def counted(signature: Any, *args: Any) -> Any:
        seen.append(signature.name)
        return whole(signature, *args)

    monkeypatch.setattr(calls, "bind", counted)
    return seen


def test_a_call_like_one_before_is_not_checked(checks: list[str]) -> None:
    found = of("causal")
    one = found.bind(tensors(1, 2, 5, 4))
    other = found.bind(tensors(1, 2, 5, 4))
    assert checks == ["causal"]
    assert (one.sizes, one.dtype, one.q_start) == (other.sizes, other.dtype, other.q_start)
    found.bind(tensors(1, 2, 6, 4))
    found.bind({**tensors(1, 2, 5, 4), "q_start": 1})
    found.bind(tensors(1, 2, 5, 4, dtype=torch.float64))
    assert len(checks) == 4


def test_a_bad_call_is_refused_after_a_good_one_in_the_same_words() -> None:
    found, good = of("causal"), tensors(1, 2, 5, 4)
    bad: list[dict[str, Any]] = [
        {**good, "k": good["k"][:, :, :, :3]},
        {**good, "k": good["k"].half()},
        {**good, "k": good["k"].to("meta")},
        {**good, "k": None},
        {**good, "k": [good["k"]]},
        {**good, "q_start": True},
        {**good, "q_start": 0.0},
        {"q": good["q"], "k": good["k"]},
        {**good, "w": 1},
    ]
    for given in bad:
        with pytest.raises(attnspec.AttnError) as before:
            of("causal").bind(given)
        found.bind(good)
        found.bind({**good, "q_start": 0})
        found.bind({**good, "q_start": 1})
        with pytest.raises(attnspec.AttnError) as after:
            found.bind(given)
        assert str(after.value) == str(before.value)


def test_kinds_tell_all_that_is_checked() -> None:
    q = tensors(1, 2, 5, 4)["q"]
    kinds = [
        {"q": q}, {"q": q[:, :1]}, {"q": q.double()}, {"q": q.to("meta")}, {"k": q}, {"q": (q, q)},
        {"q": (q, q[:, :1])}, {"q": 1}, {"q": 1.0}, {"q": True}, {"q": 0.0}, {"q": -0.0},
        {"q": None}, {},
    ]  # fmt: skip
    assert len({kind_of(given) for given in kinds}) == len(kinds)
    assert kind_of({"q": [q]}) is None
    assert kind_of({"q": (q, [q])}) is None


def test_what_the_call_leaves_out_is_made_once(checks: list[str]) -> None:
    found, given = of("alibi"), tensors(1, 2, 5, 4)
    first = found.bind(given).tensors["slope"]
    assert found.bind(given).tensors["slope"] is first
    assert checks == ["alibi"]
    assert isinstance(first, Tensor)
    first.add_(1.0)  # by somebody who got hold of it
    again = found.bind(given).tensors["slope"]
    assert isinstance(again, Tensor)
    assert torch.equal(again, first - 1.0)


def test_what_is_made_in_inference_mode_is_not_kept() -> None:
    attention, given = attnspec.compile(
        "attention kept\nparam slope[h] = h / 3\nmask j <= i\n"
        "score = dot(q[i], k[j]) - slope * (i - j)\n"
    ), tensors(1, 2, 5, 4)  # fmt: skip
    with torch.inference_mode():
        attention(**given)
    given = {name: x.requires_grad_() for name, x in given.items()}
    attention(**given).sum().backward()
    assert given["q"].grad is not None


def test_numbers_are_those_of_the_call() -> None:
    """As numbers, as tensors without axes, and for a param without axes."""
    attention = attnspec.compile(
        "attention numbers\ninput scale: float\nparam heat = 1\nmask j <= i\n"
        "score = scale * heat * dot(q[i], k[j])\n"
    )
    given = tensors(1, 2, 5, 4)
    values: list[Any] = [0.5, torch.tensor(0.5), torch.tensor(2.0), 2.0, 0, -1.0]
    for value in (*values, *values):
        for heat in (3, torch.tensor(3.0), 0.25):
            found = attention(**given, scale=value, heat=heat)
            expected = attention.reference(**given, scale=value, heat=heat)
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_default_that_reads_a_tensor_is_made_anew() -> None:
    attention = attnspec.compile(
        "attention reads\nparam a[h]\nparam slope[h] = 2 * a\nmask j <= i\n"
        "score = dot(q[i], k[j]) - slope * (i - j)\n"
    )
    given = tensors(1, 2, 5, 4)
    for a in (torch.ones(2), torch.tensor([0.5, -3.0])):
        expected = attention.reference(**given, a=a)
        torch.testing.assert_close(attention(**given, a=a).double(), expected, rtol=1e-4, atol=1e-5)


def test_a_pair_given_once_is_cut_for_both_sides() -> None:
    found, given = of("documents"), tensors(1, 2, 5, 4)
    given = {**given, "q": given["q"][:, :, :2], "doc": torch.arange(5)[None]}
    for shift in (0, 7):
        given["doc"] = torch.arange(5)[None] + shift
        queries, keys = found.bind({**given, "q_start": 3}).tensors["doc"]
        assert queries.tolist() == [[3 + shift, 4 + shift]]
        assert keys.tolist() == [[0 + shift, 1 + shift, 2 + shift, 3 + shift, 4 + shift]]


def test_few_kinds_are_remembered() -> None:
    found = of("causal")
    found.passed = Memo(3)
    for length in range(1, 9):
        found.bind(tensors(1, 1, length, 2))
    assert len(found.passed) <= 3


def test_a_transform_that_is_refused_leaves_nothing_behind() -> None:
    f = attnspec.compile(
        "attention a\nparam g[b, h, i] = 0.5\nmask j <= i\nscore = g[i] * dot(q[i], k[j])"
    )
    y = torch.randn(1, 1, 5, 4)
    with pytest.raises(RuntimeError):
        torch.func.grad(lambda x: f(x, y, y).sum())(y)
    torch.testing.assert_close(f(y, y, y, backend="cpu"), f.reference(y, y, y).float())
