"""Operations per score element, against counts by hand."""

from __future__ import annotations

import pytest

import attnspec
from attnspec.codegen import library
from attnspec.codegen.cost import Cost, costs

KERNEL = """
@kernel(do_not_specialize=["M"])
def forward(M, N, slope, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, W_d: tl.constexpr):
    row = tl.arange(0, BLOCK_M)
    i = (row + 1)[:, None]
    half = i * 2
    q = load_tile(at_q, 0, M, s, s, BLOCK_M, C_d, W_d)
    acc = tl.zeros([BLOCK_M, W_d], dtype=tl.float32)
    for h in range(3):
        for place in tl.range(0, count(full)):
            start = nth(place, full) * BLOCK_N
            column = start + tl.arange(0, BLOCK_N)
            j = (column + 3)[None, :]
            weight = j * slope
            s0 = dot(q, tl.trans(k), tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32))
            x = s0 * slope + (half - weight) + tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
            if FIXED is None:
                top = tl.maximum(top, tl.max(x, 1))
            else:
                unused = x * x + tl.exp2(x)
            p = tl.exp2(-x - top[:, None])
            acc = acc * top[:, None]
            acc = dot(p.to(v.dtype), v, acc)
        for place in tl.range(0, count(visited) - count(full)):
            start = nth_besides(place, visited, full) * BLOCK_N
            j = (start + tl.arange(0, BLOCK_N))[None, :]
            keep = (j <= i) & (j < N)
            x = tl.where(keep, look_up(at_t, i - j, 3), float("-inf"))
"""


def test_a_kernel_by_hand() -> None:
    assert costs(KERNEL) == {
        "forward": Cost(
            full={"add": 4, "convert": 1, "exp2": 1, "max": 1, "multiply": 1},
            partial={"add": 1, "and": 1, "compare": 1, "load": 1, "select": 1},
        )
    }


def test_a_function_that_is_no_kernel_has_no_cost() -> None:
    assert costs("def attend(q):\n    return q * 2\n") == {}


def test_a_mask_costs_nothing_in_full_tiles() -> None:
    plain, masked = costs(attnspec.load("full").source), costs(attnspec.load("causal").source)
    for name, cost in plain.items():
        assert masked[name].full == cost.full
        assert {"compare", "and", "select"} <= set(masked[name].partial)
        assert not {"compare", "and", "select"} & set(cost.full)


@pytest.mark.parametrize("name", library.names())
def test_every_kernel_is_read(name: str) -> None:
    """Each kernel of the library has the matrix products' results to work on."""
    source = attnspec.load(name).source
    for kernel, cost in costs(source).items():
        for found in (cost.full, cost.partial):
            assert all(n > 0 for n in found.values()), kernel
        assert cost.usual, kernel
        assert not set(cost.usual) & {"other", ""}
