"""Sampled arguments satisfy what a spec asks for, and vary."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from tests.runtime.conftest import spec_of
from torch import Tensor

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.bind import Bound
from attnspec.runtime.sampling import sample


def draw(text: str, seed: int = 0, **more: int) -> Bound:
    generator = torch.Generator().manual_seed(seed)
    return sample(spec_of(text), generator, more, dtype=torch.float64)


def tensor(bound: Bound, name: str) -> Tensor:
    value = bound.tensors[name]
    assert isinstance(value, Tensor)
    return value


def test_the_same_seed_gives_the_same_arguments() -> None:
    one, two, other = (draw("mask j <= i", seed) for seed in (1, 1, 2))
    assert one.sizes == two.sizes
    assert torch.equal(tensor(one, "q"), tensor(two, "q"))
    assert one.sizes != other.sizes or not torch.equal(tensor(one, "q"), tensor(other, "q"))


def test_given_sizes_stand() -> None:
    bound = draw("mask j <= i", b=3, h=6, heads=2, i=5, j=7, d=9, e=1)
    assert {n: list(tensor(bound, n).shape) for n in "qkv"} == {
        "q": [3, 6, 5, 9],
        "k": [3, 2, 7, 9],
        "v": [3, 2, 7, 1],
    }


def test_bounds_of_floats_and_integers() -> None:
    text = (
        "input a[b, h, j] where 0 < a <= 1\ninput up[j] where up >= 2\n"
        "axis docs\ninput doc[b, j]: int where 0 <= doc < size(docs)\ninput start[b, docs]: int\n"
        "score = dot(q[i], k[j]) * a[j] + up[j]\nmask i >= start[doc[j]]"
    )
    kinds = set()
    for seed in range(20):
        bound = draw(text, seed)
        a, up, doc = (tensor(bound, n) for n in ("a", "up", "doc"))
        assert ((a > 0) & (a <= 1)).all()
        assert (up >= 2).all()
        assert ((doc >= 0) & (doc < bound.sizes["docs"])).all()
        kinds.update(doc.unique().tolist())
    assert len(kinds) > 2


def test_required_sizes_are_found() -> None:
    text = (
        "grid y, x\naxis r = D // 2\nparam p[r] = 0\nrequire GY % 7 == 0 and GX >= GY\n"
        "require D % 4 == 0 and H % 4 == 0\nscore = dot(q[i], k[j]) + sum(r, p[r])"
    )
    for seed in range(5):
        sizes = draw(text, seed).sizes
        assert sizes["i.y"] % 7 == 0
        assert sizes["i.x"] >= sizes["i.y"]
        assert sizes["i"] == sizes["j"] == sizes["i.x"] * sizes["i.y"]
        assert sizes["r"] * 2 == sizes["d"]
        assert sizes["d"] % 4 == sizes["h"] % 4 == 0


def test_scalars_vary_within_their_facts() -> None:
    seen = {
        draw("input w: int = 256 where w > 0\nmask i - j < w", s).scalars["w"] for s in range(20)
    }
    assert 256 in seen
    assert len(seen) > 4
    assert all(w > 0 for w in seen)


def test_both_sides_of_a_pair() -> None:
    shapes = set()
    for seed in range(12):
        bound = draw("input doc[b, n]: int\nmask doc[i] == doc[j]", seed, q_start=0)
        queries, keys = bound.tensors["doc"]
        assert queries.shape[1] == bound.sizes["i"]
        assert keys.shape[1] == bound.sizes["j"]
        shapes.add(queries is keys)
    assert shapes == {True, False}


def test_starts_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    spec = spec_of("input seen[b, j]: bool\nmask seen[j] and j <= i")
    bound = sample(spec, generator, q_start=5, k_start=3, requires_grad=True, dtype=torch.bfloat16)
    assert (bound.q_start, bound.k_start) == (5, 3)
    assert tensor(bound, "q").is_leaf
    assert tensor(bound, "q").requires_grad
    assert tensor(bound, "q").dtype is torch.bfloat16
    assert not tensor(bound, "seen").requires_grad


def test_facts_that_nothing_satisfies() -> None:
    with pytest.raises(AttnError, match=r"^a: found no sizes that satisfy its facts$"):
        draw("require N * N == 7\nmask j <= i")


def test_no_process_draws_other_sizes() -> None:
    """What a set is walked in hangs on the process: a finding could not be run again."""
    code = (
        "import torch\n"
        "from attnspec import load\n"
        "from attnspec.runtime.sampling import sample\n"
        "spec = load('query_aggregation').spec\n"
        "draws = [sample(spec, torch.Generator().manual_seed(n)).sizes for n in range(4)]\n"
        "print([sorted(sizes.items()) for sizes in draws])\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
