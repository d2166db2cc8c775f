"""What specs are timed beside says what they say: values and gradients against the reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.runtime.conftest import agree, spec_of
from torch import Tensor
from torch.nn.attention import flex_attention as flex

import attnspec
from attnspec.dsl import ast
from attnspec.runtime.api import Attention
from attnspec.runtime.peer_form import Unfit
from attnspec.runtime.peer_task import Task
from attnspec.runtime.peers import peer
from attnspec.runtime.typical import typical

# Masks of positions and of inputs, biases fixed, learned and of one token, scores of other kinds,
# sinks, gates, rotations, grids.
FITTING = (
    "full causal sliding_window prefix_lm causal_documents padded alibi softcap natten t5 sink"
    " relative_clipped gated_elementwise rope forgetting swin in_context"
).split()
REFUSED = {
    ("softcap", "sdpa"): "no sum of a dot product and a bias",
    ("sink", "sdpa"): "sdpa takes no sink",
    ("sigmoid", "sdpa"): "no softmax",
    ("sigmoid", "flex"): "no softmax",
    ("relu_causal", "flex"): "no softmax",
    ("gla", "eager"): "no sum over keys",
    ("entropy", "sdpa"): "more than an output",
    ("differential", "eager"): "2 dot products",
    ("shaw_values", "eager"): "values",
    ("shaw", "flex"): "one query and one key",
    ("topk_attention", "flex"): "more of a pair",
}


@pytest.fixture(autouse=True)
def eager_flex(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """FlexAttention uncompiled, which can differentiate on a CPU: only a check refuses."""
    compiled = torch.compile

    def plain(function: Callable[..., Any], **options: Any) -> Any:
        return function if function is flex.flex_attention else compiled(function, **options)

    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(torch, "compile", plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def task(attention: Attention, **sizes: Any) -> tuple[Task, dict[str, Any], list[Tensor]]:
    """A call in float64, every float argument a leaf that changes."""
    given = typical(attention.spec, batch=2, heads=4, length=32, dtype=torch.float64, **sizes)
    leaves = [x for x in given.values() if isinstance(x, Tensor) and x.is_floating_point()]
    for leaf in leaves:
        leaf.requires_grad_()
    names = {decl.name for decl in attention.spec.decls if decl.kind is ast.Kind.FLOAT}
    spec = attention.spec
    return Task(spec, attention.bind(**given), frozenset(names)), given, leaves


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("name", FITTING)
def test_peers_say_what_the_spec_says(name: str, kv_heads: int) -> None:
    attention = attnspec.load(name)
    asked, given, leaves = task(attention, kv_heads=kv_heads)
    want = attention.reference(**given)
    refused = set()
    for other in ("sdpa", "eager", "flex", "reference"):
        try:
            got = peer(other, asked).call()
        except Unfit:
            refused.add(other)
            continue
        agree(got, want, leaves)
    assert refused <= {other for spec, other in REFUSED if spec == name}


@pytest.mark.parametrize(("name", "other"), REFUSED)
def test_what_a_peer_cannot_say_has_a_reason(name: str, other: str) -> None:
    asked, _, _ = task(attnspec.load(name))
    with pytest.raises(Unfit, match=REFUSED[name, other]):
        peer(other, asked).call()


def test_positions_need_not_start_at_zero() -> None:
    """Neither where they are computed with nor where a token's numbers are read at them."""
    text = """attention a
param s[h] = 0.5
input w[b, h, j]
input u[b, h, i]
mask i - 20 < j <= i
score = dot(q[i], k[j]) - s * (i - j) + w[j] * u[i] + sigmoid(w[j])
"""
    attention = attnspec.compile(text)
    given = typical(attention.spec, length=16, rows=5, dtype=torch.float64)
    given |= {"q_start": 14, "k_start": 3}
    names = ("q", "k", "v", "s", "w", "u")
    leaves = [given[name].requires_grad_() for name in names]
    asked = Task(attention.spec, attention.bind(**given), frozenset(names))
    want = attention.reference(**given)
    for other in ("sdpa", "eager", "flex"):
        agree(peer(other, asked).call(), want, leaves)


def test_what_does_not_change_is_made_beforehand_and_counted() -> None:
    attention = attnspec.load("t5")
    asked, _, _ = task(attention)
    pairs = 32 * 32
    for changing, how, kept in (
        ({"q", "k", "v"}, "made beforehand", 4 * pairs * 8),  # the bias of each head
        ({"q", "k", "v", "table"}, "made in each call", pairs * 8),  # the buckets
    ):
        found = peer("eager", Task(asked.spec, asked.bound, frozenset(changing)))
        assert found.note.endswith(how)
        assert found.bytes == kept
    assert peer("sdpa", task(attnspec.load("causal"))[0]).bytes == 0


@pytest.mark.parametrize("name", ["causal", "full", "prefix_lm", "natten", "padded", "in_context"])
def test_pairs_are_those_of_the_mask(name: str) -> None:
    attention = attnspec.load(name)
    asked, _, _ = task(attention)
    sizes = [asked.bound.sizes[axis] for axis in "bhij"]
    mask = attention.spec.mask
    want = torch.ones(sizes, dtype=torch.bool)
    if mask is not None:
        want = asked.evaluator().full(mask, ("b", "h", "i", "j"))
    assert asked.pairs() == int(want.sum())


def test_functions_of_a_pair_are_those_of_the_language() -> None:
    """Operations with numbers and with tensors on either side."""
    text = """
param a[h] = 0.7
input width: int = 3
score = dot(q[i], k[j]) * tanh(a) + min(i, j, 5) - max(2, i) + clamp(i - j, -width, width) * 0.1
  + where(i % 3 == 0 and not j > 4 or i != j, 1, a) + abs(i - j) // 2 + floor(i / 3) - ceil(j * 0.3)
  + sqrt(i + 1) * relu(i - j) + exp(-j) + log(1 + j) ** 2 + sigmoid(a * i) + 2.0 ** (i - j)
  + leaky_relu(a * (i - j)) + silu(a * i) + gelu(a) + softplus(a * j) + erf(a) + elu(a * (j - i))
"""
    attention = attnspec.compile(spec_of(text.replace("\n  +", " +")).text)
    asked, given, leaves = task(attention)
    torch.set_default_dtype(torch.float64)  # of functions of whole numbers
    try:
        agree(peer("eager", asked).call(), attention.reference(**given), leaves)
    finally:
        torch.set_default_dtype(torch.float32)
