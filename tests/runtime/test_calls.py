"""Calls that are bound without their checks, since one of their kind has passed them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime import calls
from attnspec.runtime.bind import bind
from attnspec.runtime.calls import Calls, free_numbers, kind_of
from attnspec.runtime.extents import read_by
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
    found.bind(tensors(1, 2, 5, 4, dtype=torch.float64))
    assert len(checks) == 3
    turned = {n: x.mT.contiguous().mT for n, x in tensors(1, 2, 5, 4).items()}
    found.bind(turned)  # launches depend on strides
    assert len(checks) == 4


NUMBERS = """
attention numbers
input scale: float
input seed: int = 0
param slope[h] = scale * h
mask j <= i
score = scale * dot(q[i], k[j]) - slope * (i - j) + 0.001 * seed
"""


def test_numbers_that_decide_nothing_are_those_of_each_call(checks: list[str]) -> None:
    attention, given = attnspec.compile(NUMBERS), tensors(1, 2, 5, 4)
    found = Calls(attention.signature, attention._generated.initial)
    slope = torch.ones(2)
    for seed, start in ((0, 0), (7, 3), (9, 5)):
        of = {**given, "scale": 2, "slope": slope, "seed": seed, "q_start": start, "k_start": start}
        bound = found.bind(of)
        assert bound.scalars == {"scale": 2.0, "seed": seed}
        assert isinstance(bound.scalars["scale"], float)
        assert (bound.q_start, bound.k_start) == (start, start)
    assert len(checks) == 1
    others: list[Any] = [1.5, True, torch.tensor(3)]
    for other in others:
        with contextlib.suppress(attnspec.AttnError):
            found.bind({**given, "scale": 2, "slope": slope, "seed": other})
    assert len(checks) == 4


def test_a_number_that_a_default_reads_decides(checks: list[str]) -> None:
    attention, given = attnspec.compile(NUMBERS), tensors(1, 2, 5, 4)
    found = Calls(attention.signature, attention._generated.initial)
    for scale in (1.0, 2.0, 1.0, 3.0):
        slope = found.bind({**given, "scale": scale}).tensors["slope"]
        assert isinstance(slope, Tensor)
        assert slope.tolist() == [0.0, scale]
    assert len(checks) == 3


@pytest.mark.parametrize("name", ["documents", "natten", "rope"])
def test_positions_decide_what_is_cut_and_where_grids_begin(name: str) -> None:
    signature = attnspec.load(name).signature
    decide = bool(signature.grids) or any(a.paired for a in signature.arguments)
    assert decide == (name != "rope")
    assert ("q_start" in free_numbers(signature)) != decide


def test_computed_positions_decide_where_rows_may_begin() -> None:
    attention = attnspec.compile("attention a\nscore = dot(q[i], k[min(j + 1, N - 1)])")
    given = tensors(1, 2, 5, 4)
    attention(**given, q_start=2)
    for _ in range(2):
        with pytest.raises(attnspec.AttnError, match="expected k_start = 0, got 2"):
            attention(**given, k_start=2)


def test_what_sizes_read_decides() -> None:
    text = (
        "attention a\ninput few: int\ninput rate: float\n{axis}\n"
        "score = dot(q[i], k[j]) + cos(few * (i - j)) - rate * {more}"
    )
    for axis, more, free in (
        ("index u = j", "amax(u, u)", {"few", "rate", "q_start", "k_start"}),
        ("axis m = 2 * D", "sum(m, cos(m + i))", {"few", "rate", "q_start", "k_start"}),
        ("blocks c = j // 4", "amax(c, c)", {"few", "rate", "q_start"}),
    ):
        attention = attnspec.compile(text.format(axis=axis, more=more))
        assert free_numbers(attention._generated.CALLS.signature) == free
    assert read_by(("blocks", "i", ("add", "d", ("number", "few")))) == {"q_start", "few"}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_who_looks_on_is_no_part_of_what_is_known() -> None:
    """A call that somebody watches goes through the dispatcher, whatever was known before."""
    found, given = of("causal"), tensors(1, 2, 5, 4)
    known = found.bind(given).passed
    assert known is not None
    with torch.autograd.profiler.profile():
        assert found.bind(given).passed is None
    assert found.bind(given).passed is known
    negative = torch.view_as_complex(torch.randn(1, 2, 5, 4, 2)).conj().imag
    assert negative.is_neg()
    assert found.bind({**given, "q": negative}).passed is None
    sparse = given["q"].to_sparse_csr()  # has no strides
    assert found.bind({**given, "q": sparse}).passed is None


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


@pytest.mark.parametrize("backend", [None, "cpu"])
def test_a_call_without_memory_has_results_without_memory(backend: str | None) -> None:
    f = attnspec.load("causal")
    for grad in (False, True):
        given = {n: x.to("meta").requires_grad_(grad) for n, x in tensors(1, 2, 9, 4).items()}
        for _ in range(2):
            out = f(**given, backend=backend)
            assert (out.is_meta, out.shape, out.requires_grad) == (True, (1, 2, 9, 4), grad)


def test_what_a_transform_left_behind_has_a_gradient() -> None:
    f, given, left = attnspec.load("causal"), tensors(1, 2, 5, 4), []
    q = given.pop("q").requires_grad_()

    def kept(x: Tensor) -> Tensor:
        left.append(x)
        return x.sum()

    torch.func.grad(kept)(q)
    [found] = torch.autograd.grad(f(left[0], **given).square().sum(), q)
    [want] = torch.autograd.grad(f(q, **given).square().sum(), q)
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("weight", ["sigmoid(score)", "softmax(score)"])
@pytest.mark.parametrize("backend", [None, "cpu"])
def test_values_without_channels(weight: str, backend: str | None) -> None:
    f, given = attnspec.compile(f"attention empty\nweight = {weight}\n"), tensors(1, 2, 5, 4)
    assert f(given["q"], given["k"], given["v"][..., :0], backend=backend).shape == (1, 2, 5, 0)
