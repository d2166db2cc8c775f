"""Binding: what comes out, and the exact text of everything that can go wrong."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.bind import Bound, Number, bind
from attnspec.runtime.signature import Argument, Grid, Signature

Q = Argument("q", "query", ("b", "h", "i", "d"), "float")
K = Argument("k", "key", ("b", "h", "j", "d"), "float")
V = Argument("v", "value", ("b", "h", "j", "e"), "float")
DOC = Argument("doc", "input", ("b", "j"), "int")
SEEN = Argument("seen", "input", ("b", "j"), "bool")
WINDOW = Argument("window", "input", (), "int", default=256)
TAU = Argument("tau", "input", (), "float")
TABLE = Argument("table", "param", ("h", "table.1"), "float", default=0)
SLOPE = Argument("slope", "param", ("h",), "float", computed=True)
SCALE = Argument("scale", "param", (), "float", default=1.5)


def make(*arguments: Argument, **more: object) -> Signature:
    return Signature("toy", (Q, K, V, *arguments), **more)  # type: ignore[arg-type]


def qkv(
    b: int = 2, h: int = 4, hkv: int = 2, m: int = 5, n: int = 7, d: int = 8, e: int = 6
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(b, h, m, d), torch.zeros(b, hkv, n, d), torch.zeros(b, hkv, n, e)


def refused(signature: Signature, args: tuple[object, ...], text: str, **kwargs: object) -> None:
    with pytest.raises(AttnError, match=f"^{re.escape('toy: ' + text)}$"):
        bind(signature, args, kwargs)


def test_sizes_starts_and_order() -> None:
    q, k, v = qkv()
    doc = torch.zeros(1, 7, dtype=torch.int32)
    bound = bind(make(DOC, WINDOW), (q, k, v), {"doc": doc, "q_start": 2, "k_start": 3})
    assert bound.sizes == {"b": 2, "h": 4, "i": 5, "j": 7, "d": 8, "e": 6}
    assert (bound.q_start, bound.k_start) == (2, 3)
    assert bound.scalars == {"window": 256}
    assert bound.tensors["k"] is k
    assert bound.tensors["doc"] is doc
    assert bound.dtype is torch.float32


def test_signature_prints_as_a_literal(tmp_path: Path) -> None:
    signature = make(
        DOC,
        sizes=(("table.1", 32), ("c", ("blocks", "j", 64))),
        grids=(Grid("i", ("y", "x"), ("GY", "GX")),),
    )
    path = tmp_path / "generated.py"
    imports = "from attnspec.runtime.signature import Argument, Grid, Signature"
    path.write_text(f"{imports}\n\nSIGNATURE = {signature!r}\n")
    assert runpy.run_path(str(path))["SIGNATURE"] == signature


def test_defaults() -> None:
    asked: list[tuple[str, int]] = []

    def initial(name: str, so_far: Bound) -> Tensor | Number:
        asked.append((name, so_far.sizes["h"]))
        return torch.arange(4.0)

    signature = make(TABLE, SLOPE, SCALE, sizes=(("table.1", 3),))
    bound = bind(signature, tuple(x.double() for x in qkv()), {}, initial)
    table, slope, scale = (bound.tensors[n] for n in ("table", "slope", "scale"))
    assert isinstance(table, Tensor)
    assert isinstance(slope, Tensor)
    assert isinstance(scale, Tensor)
    assert table.shape == (4, 3)
    assert not table.any()
    assert slope.tolist() == [0, 1, 2, 3]
    assert slope.dtype is torch.float64
    assert scale.dtype is torch.float64
    assert scale.item() == 1.5
    assert asked == [("slope", 4)]
    given = bind(make(SCALE), qkv(), {"scale": 2}).tensors["scale"]
    assert isinstance(given, Tensor)
    assert (given.shape, given.item()) == ((), 2.0)


def test_values_of_a_table_default() -> None:
    table = Argument("w", "param", ("h", "w.1"), "float", default=((1, 2), (3, 4)))
    bound = bind(make(table, sizes=(("w.1", 2),)), qkv(h=2), {})
    value = bound.tensors["w"]
    assert isinstance(value, Tensor)
    assert value.tolist() == [[1, 2], [3, 4]]


def test_missing_and_unknown() -> None:
    q, k, v = qkv()
    refused(make(), (q, k), "argument `v`: expected a tensor [B, Hkv, N, E], got nothing")
    refused(make(TAU), (q, k, v), "argument `tau`: expected a number, got nothing")
    refused(make(SLOPE), (q, k, v), "argument `slope`: expected a tensor [H], got nothing")
    refused(
        make(Argument("w", "param", ("h", "w.1"), "float"), sizes=(("w.1", 3),)),
        (q, k, v),
        "argument `w`: expected a tensor [H, 3], got nothing",
    )
    refused(
        make(WINDOW),
        (q, k, v),
        "argument `windw`: unknown; it takes q, k, v, window, q_start, k_start",
        windw=3,
    )
    refused(make(), (q, k, v), "argument `q`: given twice", q=q)
    refused(make(), (q, k, v, v), "expected at most 3 positional arguments (q, k, v), got 4")


def test_scalars() -> None:
    args = qkv()
    refused(make(WINDOW), args, "argument `window`: expected an integer, got 2.5", window=2.5)
    refused(make(WINDOW), args, "argument `window`: expected an integer, got True", window=True)
    refused(make(TAU), args, "argument `tau`: expected a number, got a str", tau="x")
    refused(
        make(TAU), args, "argument `tau`: expected a number, got a tensor [2]", tau=torch.zeros(2)
    )
    refused(
        make(TAU),
        args,
        "argument `tau`: expected a number without gradient (a `param` has one)",
        tau=torch.tensor(1.0, requires_grad=True),
    )
    refused(make(), args, "argument `q_start`: expected a position, 0 or more, got -1", q_start=-1)
    bound = bind(make(TAU, WINDOW), args, {"tau": 1, "window": torch.tensor(3)})
    assert bound.scalars == {"tau": 1.0, "window": 3}
    assert isinstance(bound.scalars["tau"], float)


def test_shapes() -> None:
    q, k, v = qkv()
    doc = torch.zeros(2, 63, dtype=torch.int64)
    refused(
        make(DOC), (q, k, v), "argument `doc`: expected shape [B, N] = [2, 7], got [2, 63]", doc=doc
    )
    refused(
        make(DOC),
        (q, k, v),
        "argument `doc`: expected shape [B, N] = [2, 7], got [7]",
        doc=torch.zeros(7, dtype=torch.int64),
    )
    refused(
        make(),
        (q, k[..., :5], v),
        "argument `k`: expected shape [B, Hkv, N, D] = [2, Hkv, 7, 8], got [2, 2, 7, 5]",
    )
    refused(
        make(),
        (q, k, v[:, :, :6]),
        "argument `v`: expected shape [B, Hkv, N, E] = [2, Hkv, 7, E], got [2, 2, 6, 6]",
    )
    refused(
        make(),
        (q, torch.zeros(3, 2, 7, 8), v),
        "argument `k`: expected shape [B, Hkv, N, D] = [2, Hkv, N, 8], got [3, 2, 7, 8]",
    )
    refused(
        make(TABLE, sizes=(("table.1", 32),)),
        (q, k, v),
        "argument `table`: expected shape [H, 32] = [4, 32], got [4, 31]",
        table=torch.zeros(4, 31),
    )
    refused(make(), (q, [1], v), "argument `k`: expected a tensor [B, Hkv, N, D], got a list")


def test_a_default_needs_its_sizes() -> None:
    w = Argument("w", "param", ("h", "c"), "float", default=0)
    text = (
        "argument `w`: expected a tensor [H, c] (nothing else tells the size of axis 'c'),"
        " got nothing"
    )
    refused(make(w), qkv(), text)


def test_heads() -> None:
    q, k, v = qkv()
    k3 = torch.zeros(2, 3, 7, 8)
    refused(
        make(), (q, k3, v), "argument `k`: expected a number of heads that divides H = 4, got 3"
    )
    sizes = bind(make(), (q, k[:, :1], v), {}).sizes
    assert sizes["h"] == 4


def test_batch_of_one_is_broadcast() -> None:
    q, k, v = qkv()
    assert bind(make(), (q[:1], k, v[:1]), {}).sizes["b"] == 2


def test_dtypes_and_devices() -> None:
    q, k, v = qkv()
    refused(
        make(),
        (q, k.half(), v),
        "argument `k`: expected dtype torch.float32 as `q` has, got torch.float16",
    )
    refused(
        make(),
        (q.int(), k, v),
        "argument `q`: expected dtype torch.float32 or torch.float16 or torch.bfloat16"
        " or torch.float64, got torch.int32",
    )
    refused(
        make(DOC),
        (q, k, v),
        "argument `doc`: expected dtype torch.int32 or torch.int64, got torch.float32",
        doc=torch.zeros(2, 7),
    )
    refused(
        make(SEEN),
        (q, k, v),
        "argument `seen`: expected dtype torch.bool, got torch.int64",
        seen=torch.zeros(2, 7, dtype=torch.int64),
    )
    refused(make(), (q, k.to("meta"), v), "argument `k`: expected device cpu as `q` has, got meta")


def test_constants_fix_the_heads() -> None:
    refused(
        make(tables=(("span", ("h",), (3,)),)),
        qkv(),
        "constant `span`: expected H = 3, got H = 4",
    )


def test_equal_sizes() -> None:
    q, k, v = qkv(d=8, e=6)
    refused(
        make(equal=(("d", "e"),)),
        (q, k, v),
        "argument `v`: expected D = E, got D = 8 and E = 6",
    )
    only = Signature("toy", (Q, K), equal=(("e", "d"),))
    assert bind(only, (q, k), {}).sizes["e"] == 8


def test_sizes_that_follow() -> None:
    x = Argument("x", "input", ("b", "h", "r"), "float")
    signature = make(x, sizes=(("r", ("floordiv", "d", 2)), ("c", ("blocks", "j", 4))))
    bound = bind(signature, (*qkv(), torch.zeros(2, 4, 4)), {"k_start": 2})
    assert bound.sizes["c"] == 3
    refused(
        signature,
        (*qkv(), torch.zeros(2, 4, 5)),
        "argument `x`: expected r = D // 2 = 4, got 5",
    )
    bad = make(x, sizes=(("r", ("floordiv", "d", ("sub", "e", "e"))),))
    refused(bad, (*qkv(), torch.zeros(2, 4, 4)), "axis `r`: floordiv of [8, 0] is not a size")


def test_grids() -> None:
    shared = make(grids=(Grid("i", ("y", "x"), ("GY", "GX")),), shared_grid=True)
    sizes = bind(shared, qkv(m=6, n=6), {"GY": 2, "GX": 3}).sizes
    assert (sizes["i.y"], sizes["i.x"], sizes["j.y"], sizes["j.x"]) == (2, 3, 2, 3)
    refused(
        shared,
        qkv(m=6, n=6),
        "argument `GX`: expected a positive integer, the grid's size along x, got nothing",
        GY=2,
    )
    refused(
        shared,
        qkv(m=6, n=6),
        "argument `GY`: expected GY * GX = M = 6, got 8",
        GY=2,
        GX=4,
    )
    refused(
        shared,
        qkv(m=6, n=6),
        "argument `q_start`: expected 0 (a grid has all its tokens), got 1",
        GY=2,
        GX=3,
        q_start=1,
    )
    split = make(grids=(Grid("i", ("y",), ("GY_i",)), Grid("j", ("y",), ("GY_j",))))
    assert bind(split, qkv(), {"GY_i": 5, "GY_j": 7}).sizes["j.y"] == 7


def test_pairs() -> None:
    doc = Argument("doc", "input", ("b", "j"), "int", paired=True)
    signature = make(doc, across=(("doc", "j", "i"),))
    rows = torch.arange(7).expand(2, 7)
    bound = bind(signature, qkv(), {"doc": rows, "q_start": 2})
    queries, keys = bound.tensors["doc"]
    assert queries.tolist() == [[2, 3, 4, 5, 6]] * 2
    assert keys is rows
    given = bind(signature, qkv(), {"doc": (rows[:, :5], rows), "q_start": 90})
    assert given.tensors["doc"][0].shape == (2, 5)
    refused(
        signature,
        qkv(),
        "argument `doc`: expected rows for the positions 3 to 7 of the queries or a pair"
        " (for queries, for keys), got positions 0 to 6",
        doc=rows,
        q_start=3,
    )
    refused(
        signature,
        qkv(),
        "argument `doc`: expected shape [B, M] = [2, 5], got [2, 7]",
        doc=(rows, rows),
    )
    refused(
        signature,
        qkv(),
        "argument `doc`: expected a tensor or a pair (for queries, for keys)",
        doc=(rows,),
    )


def test_definitions_read_at_the_other_side() -> None:
    signature = make(across=(("total", "j", "i"),))
    assert bind(signature, qkv(), {}).sizes["i"] == 5
    refused(
        signature,
        qkv(),
        "`total` is read at the other side: expected rows for the positions 9 to 13 of the"
        " queries, got positions 0 to 6",
        q_start=9,
    )


def test_what_is_right_from_zero_on() -> None:
    signature = make(anchored=(("k[top[i]]", "j"),))
    assert bind(signature, qkv(), {"q_start": 3}).q_start == 3
    refused(
        signature,
        qkv(),
        "`k[top[i]]` is shown to be right where positions start at 0: expected k_start = 0, got 3",
        k_start=3,
    )


def test_recurrences_need_as_many_queries_as_keys() -> None:
    signature = make(square=True)
    refused(signature, qkv(), "expected M = N (a recurrence over tokens), got M = 5 and N = 7")
    refused(
        signature,
        qkv(m=7),
        "argument `k_start`: expected q_start = 1 (a recurrence over tokens), got 0",
        q_start=1,
    )
    alone = Signature("toy", (K,), square=True)
    assert bind(alone, (qkv()[1],), {}).sizes["i"] == 7


def test_binding_can_be_compiled_without_a_graph_break() -> None:
    doc = Argument("doc", "input", ("b", "j"), "int", paired=True)
    signature = make(
        doc, WINDOW, TABLE, SCALE, sizes=(("table.1", 32),), across=(("doc", "j", "i"),)
    )

    def call(q: Tensor, k: Tensor, v: Tensor, doc: Tensor, window: int) -> Tensor:
        bound = bind(signature, (q, k, v), {"doc": doc, "window": window, "scale": 2.0})
        queries, keys = bound.tensors["doc"]
        total: Tensor = queries.sum() + 10 * keys.sum() + bound.sizes["j"] * window
        return total

    compiled = torch.compile(call, fullgraph=True, backend="eager", dynamic=True)
    for n in (7, 9):
        arguments = (*qkv(n=n), torch.ones(2, n, dtype=torch.int64), n)
        assert compiled(*arguments) == call(*arguments) == 10 + 20 * n + n * n
