"""Running sums: over the tokens on one side of a pair's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.codegen.test_passes import EMPTY, PLAIN, SELF, fused, shown

import attnspec
from attnspec.codegen.running import running
from attnspec.dsl.ast import Reduce, walk
from attnspec.runtime import tile_tables, tiles
from attnspec.runtime.running import block_sums, by_run, carried
from attnspec.runtime.running import running as running_sum
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

# text, and of each pass what it gives, rows and columns
FORMS = {
    "product of those after": (
        "index u = j\nmask j <= i + 3\nlet p[i, j] = sigmoid(score)\n"
        "weight = p[i, j] * prod(u, 1 - p[i, u], where=j < u)",
        ["blocks ij", "vector ij"],
    ),
    "count down from the query": (
        "index u = j\ninput x[b, h, i]\nmask j <= i\nlet S[i, j] = relu(score)\n"
        "weight = softmax(S[i, j] + logsigmoid(x[i]) * "
        "sum(u, 1, where=j <= u <= i and S[i, u] > 0), where=S[i, j] > 0)",
        ["blocks ij", "number ij softmax", "vector ij"],
    ),
    "cumulative sum": (
        "mask i - 3 < j <= i + 9\ninput c[b, j]\n"
        "weight = tanh(score) * cumsum(j, sigmoid(score) * c[j], where=j % 3 != 1) / N",
        ["blocks ij", "vector ij"],
    ),
    "inside a softmax": (
        "index u = j\nmask abs(i - j) <= 25\nparam g[h] = 0.5\n"
        "weight = softmax(score - g * sum(u, sigmoid(score[i, u]), where=u >= j))",
        ["blocks ij", "vector ij softmax"],
    ),
    "times a number of the key": (
        "index u = j\ninput c[b, j]\nmask j <= i + 1\n"
        "weight = tanh(score) * sum(u, sigmoid(score[i, u]) * tanh(c[j]), where=u < j)",
        ["blocks ij", "vector ij"],
    ),
    "along the queries": (
        "index w = i\nmask j <= i + 2\nweight = sigmoid(score) * "
        "exp(-sum(w, sigmoid(score[w, j]), where=w < i and w != 4) / 4)",
        ["blocks ji", "vector ij"],
    ),
    "of what another one gives": (
        "index u = j\nindex w = j\nmask j <= i\n"
        "let p[i, j] = sum(u, tanh(score[i, u]), where=u <= j)\n"
        "weight = exp(-sum(w, p[i, w] ** 2, where=w > j) / N ** 2)",
        ["blocks ij", "blocks ij", "vector ij"],
    ),
    "of a sum over channels": (
        "index u = j\nmask j <= i\nlet s[i, j] = sum(d, tanh(q[i] + k[j]))\n"
        "weight = s[i, j] * exp(-sum(u, softplus(s[i, u]), where=u > j))",
        ["blocks ij", "vector ij"],
    ),
    "of pairs that take no part": (
        "index u = j\nmask j <= i\nlet s[i, j] = sum(d, tanh(q[i] + k[j]))\n"
        "let left[i, j] = exp(-sum(u, softplus(s[i, u]), where=u > j))\n"
        "output = sum(j, left[i, j] * v[j], where=j % 3 == 1)",
        ["blocks ij", "vector ij"],
    ),
    "given to the caller": (
        "index u = j\nmask j <= i\nlet p[i, j] = sigmoid(score)\n"
        "let left[i, j] = prod(u, 1 - p[i, u], where=j < u)\nweight = p[i, j] * left[i, j]\n"
        "return got[b, h, j] = sum(i, weight)\nreturn rest[b, h, i] = prod(j, 1 - p[i, j])\n"
        "return level[b, h, i, j] = mean(u, tanh(score[i, u]), where=u <= j)\n"
        "return first[b, h, i, j] = where(any(u, score[i, u] > 0, where=u < j), 0, left)",
        ["blocks ij", "blocks ij", "blocks ij", "blocks ij", "map ij", "map ij",
         "number ij", "number ji", "vector ij"],
    ),
    "choosing the pairs": (
        "mask j <= i and cumsum(j, exp(0.1 * score)) < 6\nweight = softmax(score)",
        ["blocks ij", "vector ij softmax"],
    ),
}  # fmt: skip
CASES = {
    "self": SELF,
    "started": replace(PLAIN, q_start=9, k_start=6),
    "few keys": replace(PLAIN, sizes=tuple((n, 2 if n == "j" else s) for n, s in PLAIN.sizes)),
    "one": replace(SELF, sizes=tuple((n, 1) for n, _ in SELF.sizes), q_start=5, k_start=5),
    "no keys": EMPTY,
    "half": replace(SELF, dtype="float16"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", FORMS)
def test_a_running_sum_is_a_part_of_a_pass(name: str, case: Case) -> None:
    text, passes = FORMS[name]
    attention = fused(text)
    assert sorted(shown(attention)) == sorted(passes)
    outcome = hold(attention, case, "cpu")
    assert not outcome.problems, outcome.problems


def test_long_rows() -> None:
    """Several tiles of a row, and of a column."""
    text, _ = FORMS["product of those after"]
    attention = fused(text.replace("mask j", "mask i - 25 < j"))
    generator = torch.Generator().manual_seed(0)
    sizes = [(140, 2), (540, 2), (540, 3)]
    q, k, v = (
        torch.randn(1, 1, *s, generator=generator, dtype=torch.float64).requires_grad_()
        for s in sizes
    )
    score = q @ k.mT / 2**0.5
    kept = torch.ones(140, 540, dtype=torch.bool).tril(3).triu(-24)
    rest = torch.where(kept, torch.nn.functional.logsigmoid(-score), 0)
    after = rest.flip(-1).cumsum(-1).flip(-1) - rest
    expected = torch.where(kept, torch.sigmoid(score) * after.exp(), 0) @ v
    got = attention(q, k, v)
    torch.testing.assert_close(got, expected)
    wanted, found = (torch.autograd.grad(x.square().sum(), (q, k, v)) for x in (expected, got))
    torch.testing.assert_close(found, wanted)


def test_what_is_not_counted_is_not_taken_away_again() -> None:
    """A large number of a pair's own does not round away what comes before it."""
    attention = fused(
        "index u = j\ninput x[i, j]\nweight = sum(u, x[i, u], where=u < j)\nvalue = v[j]"
    )
    n = 40
    x = torch.full((n, n), 1e-6).index_fill_(1, torch.tensor([7, 20, 39]), 1e8)
    got = attention(v=torch.eye(n)[None, None], x=x)
    assert got[0, 0, 20, :8].tolist() == pytest.approx([1e-6 * j for j in range(8)], rel=1e-5)
    assert got[0, 0, 20, 20].item() == pytest.approx(1e8)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("u < j", (False, False)),
        ("u <= j", (False, True)),
        ("j < u", (True, False)),
        ("u >= j and u % 2 == 0", (True, True)),
        ("j <= u <= i", (True, True)),
        ("u <= i", None),
        ("u < j + 1", None),
        ("u < j and (u + j) % 2 == 0", None),
        ("u != j", None),
        ("u < j or u > i", None),
    ],
)
def test_which_sums_run(where: str, found: tuple[bool, bool] | None) -> None:
    text = f"attention a\nindex u = j\nreturn x[b, h, i, j] = sum(u, score[i, u], where={where})"
    spec = attnspec.compile(text).spec
    node = next(n for n in walk(spec.returns[0].expr) if isinstance(n, Reduce))
    parts = running(spec, node)
    assert (None if parts is None else (parts.after, parts.own)) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("weight = sigmoid(score) * prod(u, score[i, u], where=u < j)", "proved to be above 0"),
        ("weight = sigmoid(score) * amax(u, score[i, u], where=u < j)", "inside the weight"),
        ("weight = softmax(score) - softmax(score * sum(u, score[i, u], where=u < j))", "several"),
    ],
)
def test_what_no_kernel_covers(text: str, why: str) -> None:
    plan = attnspec.compile(f"attention a\nindex u = j\n{text}").plan
    assert why in plan.stages[0].why


@given(
    m=st.integers(1, 5), n=st.integers(1, 40), after=st.booleans(), own=st.booleans(),
    dim=st.sampled_from((-1, -2)),
)  # fmt: skip
def test_blocks_and_what_lies_in_one_make_a_running_sum(
    m: int, n: int, after: bool, own: bool, dim: int
) -> None:
    x = torch.randn(m, n, dtype=torch.float64)
    whole = x if dim == -1 else x.T
    outside = carried(block_sums(whole, dim).movedim(dim, -1), after).movedim(-1, dim)
    found = running_sum(whole, dim, after, own) + by_run(outside, dim, n)
    found = found if dim == -1 else found.T
    for row, sums in zip(x, found, strict=True):
        for j in range(n):
            part = row[j + (not own) :] if after else row[: j + own]
            assert sums[j].item() == pytest.approx(part.sum().item(), abs=1e-12)


def test_every_tile_holds_whole_blocks() -> None:
    """Of every kernel of every target, also where a partial tile is taken in pieces."""
    tables = (*tile_tables.TABLES.values(), *tile_tables.FLOAT32.values())
    rows = [row for table in tables for part in table.values() for row in part]
    configs = [config for _, by_load in (*rows, tile_tables.WIDEST) for config in by_load.values()]
    assert len(configs) > 50
    for config in (*configs, *tiles.read_tuned(tiles.TUNED).values(), tiles.INTERPRETED):
        for side in (config.block_m, config.block_n, config.edge or tiles.BLOCK):
            assert side % tiles.BLOCK == 0
