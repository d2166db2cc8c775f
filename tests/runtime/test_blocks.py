"""Block lists against the mask itself, and what making them takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from tests.runtime.planning import Peak, documents
from torch import Tensor

import attnspec
from attnspec.runtime import cpu_tiles
from attnspec.runtime.aot import call_of
from attnspec.runtime.api import Attention
from attnspec.runtime.arrange import arrange
from attnspec.runtime.blocks import Lists, limits, lists, visited
from attnspec.runtime.launch import outputs
from attnspec.runtime.problem import Problem
from attnspec.runtime.reference import Evaluator
from attnspec.runtime.sampling import keywords, sample
from attnspec.runtime.tiles import INTERPRETED

SPECS = (
    "documents", "causal_documents", "padded", "kept_tokens", "token_types", "isolation",
    "prefix_documents", "mixed_modal", "graph", "shifted_groups", "soft_key_mask",
    "visual_exit", "object_prompts",
)  # fmt: skip


def called(
    f: Attention, sizes: dict[str, int], seed: int, starts: tuple[int, int] = (0, 0)
) -> tuple[Problem, Tensor]:
    """A random call and its mask [B, H, M, N]."""
    generator = torch.Generator().manual_seed(seed)
    q_start, k_start = starts
    bound = sample(f.spec, generator, sizes, q_start=q_start, k_start=k_start)
    assert f.spec.mask is not None
    mask = Evaluator(f.spec, bound, torch.float64).full(f.spec.mask, ("b", "h", "i", "j"))
    return call_of(f._generated, keywords(f.signature, bound)), mask


def tiled(mask: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Of every tile: does any pair take part, does every pair of one with all its columns?"""

    def over(reduce: Callable[[Tensor], Tensor]) -> Tensor:
        strips = (s.split(columns, -1) for s in mask.split(rows, -2))
        return torch.stack([torch.stack([reduce(t) for t in s], -1) for s in strips], -2)

    return (
        over(lambda t: t.any(-1).any(-1)),
        over(lambda t: t.all(-1).all(-1) & (t.shape[-1] == columns)),
    )


def dense(found: Lists, blocks: int) -> tuple[Tensor, Tensor]:
    """(visited, full) [B', H', R, C] that lists stand for; fails where they are not in order."""
    counts, index = found.counts, found.index
    assert counts.dtype == index.dtype == torch.int32
    visited, full = (torch.zeros(*counts.shape[:3], blocks, dtype=torch.bool) for _ in range(2))
    for b, h, r in torch.cartesian_prod(*map(torch.arange, counts.shape[:3])).tolist():
        whole, some = counts[b, h, r].tolist()
        line = index[b, h, r, : whole + some].tolist()
        assert line[:whole] == sorted(set(line[:whole]))
        assert line[whole:] == sorted(set(line[whole:]))
        assert len(set(line)) == len(line)
        visited[b, h, r, line] = True
        full[b, h, r, line[:whole]] = True
    return visited, full


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("seed", [0, 1])
def test_lists_hold_the_mask(name: str, seed: int) -> None:
    f = attnspec.load(name)
    sizes = {"b": 2, "h": 4, "i": 150, "j": 150 + 40 * seed}
    starts = (0, 0) if seed == 0 or name == "graph" else (3, 0)
    call, mask = called(f, sizes, seed, starts)
    for rows, columns in ((16, 32), (32, 16), (64, 64)):
        for by_columns in (False, True):
            some, every = (
                tiled(mask.mT, columns, rows) if by_columns else tiled(mask, rows, columns)
            )
            reached, full = dense(lists(call, rows, columns, by_columns), some.shape[-1])
            assert not (some & ~reached).any()
            assert not (full & ~every).any()


def test_what_is_known_of_key_heads_serves_their_query_heads() -> None:
    f = attnspec.compile("attention a\nmask sum(d, k[j]) > 0\n")
    call, mask = called(f, {"b": 2, "h": 4, "heads": 2, "i": 20, "j": 24, "d": 3}, 0)
    some, every = tiled(mask, 20, 2)
    reached, full = dense(lists(call, 20, 2), 12)
    assert torch.equal(reached.expand(some.shape), some)
    assert torch.equal(full.expand(every.shape), every)


@pytest.mark.parametrize("name", SPECS)
def test_what_the_cpu_visits(name: str) -> None:
    f = attnspec.load(name)
    call, mask = called(f, {"b": 2, "h": 2, "i": 150, "j": 170}, 5)
    for row, line in enumerate(visited(call, 32)):
        seen = torch.zeros(170, dtype=torch.bool)
        for begin, end, masked in line:
            part = mask[:, :, row * 32 : row * 32 + 32, begin:end]
            assert masked or part.all()
            assert not seen[begin:end].any()
            seen[begin:end] = True
        assert not mask[:, :, row * 32 : row * 32 + 32, ~seen].any()


def test_documents_visit_what_they_must() -> None:
    length, size = 2048, 64
    f = attnspec.load("causal_documents")
    doc = documents(length, 12)
    x = torch.zeros(1, 1, length, 16)
    call = call_of(f._generated, {"q": x, "k": x, "v": x, "doc": doc})
    place = torch.arange(length)
    mask = (doc[0][:, None] == doc[0]) & (place <= place[:, None])
    some, every = tiled(mask[None, None], size, size)
    reached, full = dense(lists(call, size, size), length // size)
    assert torch.equal(reached, some)
    assert torch.equal(full, every)
    assert full.sum() > 50


@pytest.mark.parametrize(("b", "h"), [(False, False), (True, False), (False, True), (True, True)])
def test_lists_are_no_larger_than_the_mask_needs(b: bool, h: bool) -> None:
    axes = [a for a, yes in (("b", b), ("h", h)) if yes]
    f = attnspec.compile(
        f"attention a\ninput keep[{', '.join([*axes, 'j'])}]: bool\nmask keep[j]\n"
    )
    call, _ = called(f, {"b": 2, "h": 4, "heads": 2, "i": 40, "j": 50}, 0)
    found = lists(call, 16, 16)
    assert found.counts.shape[:3] == (2 if b else 1, 4 if h else 1, 3)


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (5, 0)])
def test_nothing_to_list(rows: int, columns: int) -> None:
    f = attnspec.load("object_prompts")
    x, y = torch.zeros(1, 1, rows, 8), torch.zeros(1, 1, columns, 8)
    given = {"object_q": torch.zeros(1, rows).long(), "object_k": torch.zeros(1, columns).long()}
    call = call_of(f._generated, {"q": x, "k": y, "v": y, **given})
    for by_columns in (False, True):
        found = lists(call, 16, 16, by_columns)
        assert found.counts.sum() == 0
        assert found.counts.shape[2] == (columns if by_columns else rows) // 5
    assert visited(call, 16) == [[]] * (rows // 5)


CLAIM = "where doc[n - 1, pad=0] <= doc[n]"


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (5, 0)])
def test_no_range_of_nothing(rows: int, columns: int) -> None:
    f = attnspec.compile(f"attention a\ninput doc[b, n]: int {CLAIM}\nmask doc[i] == doc[j]\n")
    x, y = torch.zeros(1, 1, rows, 8), torch.zeros(1, 1, columns, 8)
    doc = torch.zeros(1, rows).long(), torch.zeros(1, columns).long()
    call = call_of(f._generated, {"q": x, "k": y, "v": y, "doc": doc})
    for by_columns in (False, True):
        found = limits(call, 16, 16, by_columns)
        assert found.shape[2] == (columns if by_columns else rows) // 5


ASCENDING = {
    "same": "mask doc[i] == doc[j]",
    "causal": "mask doc[i] == doc[j]\nmask j <= i",
    "earlier": "mask doc[j] < doc[i]",
    "window": "mask doc[j] <= doc[i]\nmask i - 40 < j",
    "later": "mask doc[j] > doc[i]",
}


@pytest.mark.parametrize("axes", ["n", "b, n", "b, h, n"])
@pytest.mark.parametrize("name", ASCENDING)
def test_ranges_of_ascending_inputs(name: str, axes: str) -> None:
    f = attnspec.compile(f"attention a\ninput doc[{axes}]: int {CLAIM}\n{ASCENDING[name]}\n")
    for size, starts in (((150, 150), (0, 0)), ((150, 190), (0, 0)), ((100, 150), (3, 0))):
        call, mask = ascending_call(f, size, starts)
        assert mask.any()
        for rows, columns in ((16, 32), (32, 16)):
            for by_columns in (False, True):
                found = limits(call, rows, columns, by_columns)
                assert found.dtype == torch.int32
                turned = mask.mT if by_columns else mask
                own, other = (columns, starts[0]) if by_columns else (rows, starts[1])
                assert_within(found, turned, own, other)


def ascending_call(
    f: Attention, size: tuple[int, int], starts: tuple[int, int]
) -> tuple[Problem, Tensor]:
    """A call with ascending ids, some of them missing, and its mask."""
    generator = torch.Generator().manual_seed(1)
    rows, columns = size
    q, k, v = (torch.zeros(2, h, n, 4) for h, n in ((4, rows), (2, columns), (2, columns)))
    axes = next(a.axes for a in f.signature.arguments if a.name == "doc")
    lead = [{"b": 2, "h": 4}[a] for a in axes[:-1]]
    ids = torch.randint(0, 9, (*lead, max(size) + 3), generator=generator).sort(-1).values
    pair = ids[..., starts[0] : starts[0] + rows], ids[..., starts[1] : starts[1] + columns]
    given = {"q": q, "k": k, "v": v, "doc": pair, "q_start": starts[0], "k_start": starts[1]}
    bound = f.bind(**given)
    assert f.spec.mask is not None
    mask = Evaluator(f.spec, bound, torch.float64).full(f.spec.mask, ("b", "h", "i", "j"))
    return call_of(f._generated, given), mask


def assert_within(found: Tensor, mask: Tensor, own: int, start: int) -> None:
    """Every pair lies in its block's range, and the full range holds nothing else."""
    found = found.expand(*mask.shape[:2], *found.shape[2:])
    place = torch.arange(mask.shape[-1]) + start
    for block, part in enumerate(mask.split(own, -2)):
        first, last, full_first, full_last = found[:, :, block, :, None].unbind(-2)
        some, every = part.any(-2), part.all(-2)
        inside = (first <= place) & (place <= last)
        full = inside & (full_first <= place) & (place <= full_last)
        assert not (some & ~inside).any()
        assert not (full & ~every).any()
        assert (every == full).all()


def test_ranges_are_used_in_kernels_and_on_the_cpu() -> None:
    f = attnspec.compile(f"attention a\ninput doc[b, n]: int {CLAIM}\n{ASCENDING['causal']}\n")
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(1, h, 300, 8, generator=generator) for h in (2, 1, 1))
    given = [x.requires_grad_() for x in (q, k, v)]
    doc = documents(300, 6)
    expected = f.reference(*given, doc=doc)
    upstream = torch.randn(expected.shape, generator=generator)
    grads = torch.autograd.grad(expected, given, upstream.double())
    y = f(*given, doc=doc)
    for a, b in zip((y, *torch.autograd.grad(y, given, upstream)), (expected, *grads), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4, check_dtype=False)
    with pytest.raises(attnspec.AttnError, match="doc"):
        f(*given, doc=doc.flip(1))
    with Peak() as peak:
        limits(call_of(f._generated, {"q": q, "k": k, "v": v, "doc": doc}), 16, 16)
    assert peak.most < 64 * 1024


def test_lists_of_131072_tokens_are_made_in_little_time_and_memory() -> None:
    length = 131072
    f = attnspec.load("documents")
    x = torch.zeros(1, 1, length, 1)
    call = call_of(f._generated, {"q": x, "k": x, "v": x, "doc": documents(length, 512)})
    for by_columns in (False, True):
        with Peak() as peak:
            found = lists(call, 128, 128, by_columns)
        assert found.counts.shape == (1, 1, 1024, 2)
        assert peak.most < 64 * 2**20
    assert any(timed(call) < 0.05 for _ in range(40))  # of a busy machine a quiet moment will do


def timed(call: Problem) -> float:
    """Seconds that one list takes."""
    begin = time.perf_counter()
    lists(call, 128, 128)
    return time.perf_counter() - begin


@pytest.mark.parametrize("name", ["causal", "sliding_window", "chunked_causal", "prefix_lm"])
def test_masks_that_bounds_describe_take_no_memory(name: str) -> None:
    f = attnspec.load(name)
    call, _ = called(f, {"b": 1, "i": 100, "j": 100}, 0)
    names = tuple(f._generated.KERNELS["forward"].arg_names)
    pointers = dict(zip(("out", "lse"), outputs(call), strict=True))
    with Peak() as peak:
        arrange(call, "forward", names, pointers, INTERPRETED)
    assert peak.most == 0


def test_a_run_that_one_head_lacks_is_whole_for_none() -> None:
    f = attnspec.load("causal")
    x = torch.zeros(1, 2, 300, 4)
    call = call_of(f._generated, {"q": x, "k": x, "v": x})
    last = torch.tensor([299, -1]).view(1, 2, 1, 1)  # nothing in the second head
    assert cpu_tiles.reached(call, ((None, last, None, None, True),), 1)[0] == [(0, 300, True)]
    first = torch.tensor([0, 300]).view(1, 2, 1, 1)
    assert cpu_tiles.reached(call, ((first, None, None, None, True),), 1)[0] == [(0, 300, True)]
    assert cpu_tiles.reached(call, ((None, 299, None, None, True),), 1)[0] == [(0, 300, False)]
    assert cpu_tiles.reached(call, ((None, 99, 20, 49, False),), 1)[0] == [(0, 100, True)]
    assert cpu_tiles.reached(call, ((5, 99, 20, 49, True),), 1)[0] == [
        (5, 20, True),
        (20, 50, False),
        (50, 100, True),
    ]


def test_a_fact_about_neighbours_holds_for_each_side_alone() -> None:
    f = attnspec.compile(f"attention a\ninput doc[b, n]: int {CLAIM}\n{ASCENDING['causal']}\n")
    q, k = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 8, 4)
    keys = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3]])
    queries = torch.tensor([[0, 1]])  # not in order with the keys before them
    y = f(q, k, k, doc=(queries, keys), q_start=6)
    expected = f.reference(q, k, k, doc=(queries, keys), q_start=6)
    torch.testing.assert_close(y, expected, check_dtype=False, atol=1e-5, rtol=1e-5)
    for wrong in ((queries.flip(1), keys), (queries, keys.flip(1))):
        with pytest.raises(attnspec.AttnError, match="doc"):
            f(q, k, k, doc=wrong, q_start=6)


def test_arguments_in_order_are_found() -> None:
    f = attnspec.compile(f"attention a\ninput doc[b, n]: int {CLAIM}\n{ASCENDING['causal']}\n")
    for seed in range(10):
        called(f, {"i": 80, "j": 80}, seed)
