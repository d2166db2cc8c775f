"""Machine code of the kernels' loops: how it is read, and how much of it there is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from attnspec.runtime.disassembly import read, tile_loops
from attnspec.runtime.kernel import interpreted

ROOT = Path(__file__).parents[2]

# Two nested loops: the inner one holds a product, the outer one an addition besides.
LISTING = """
.L_outer:
        /*0000*/                   FADD R1, R1, R2 ;
.L_inner:
        /*0010*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0020*/              @!P0 MUFU.EX2 R3, R3 ;
        /*0030*/                   { FADD R1, R1, R2  ;
        /*0040*/                   LDL R5, [R1] ;  }
        /*0050*/               @P0 BRA `(.L_inner) ;
        /*0060*/               @P1 BRA `(.L_outer) ;
.L_end:
        /*0070*/                   BRA `(.L_end);
"""


def static() -> ModuleType:
    """The benchmark, which is a script and no package's module."""
    if "static" not in sys.modules:
        found = importlib.util.spec_from_file_location("static", ROOT / "benchmarks" / "static.py")
        assert found is not None
        assert found.loader is not None
        sys.modules["static"] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules["static"])
    return sys.modules["static"]


def test_only_the_innermost_loop_with_products_counts() -> None:
    (loop,) = tile_loops(read(LISTING), width=16)
    assert (loop.instructions, loop.matrix) == (5, 1)
    assert loop.elements == 64 * 128 / 4  # a warp's share of the product, 16 deep
    assert loop.per_element == pytest.approx(4 * 32 / loop.elements)
    assert loop.mix == {"float": 1, "matrix": 1, "other": 1, "special function": 1, "spill": 1}


def test_every_goal_has_a_figure_of_the_peer() -> None:
    bench = static()
    wanted = {(s, d, p) for s in bench.SPECS for d in (64, 128) for p in ("fwd", "dq", "dkdv")}
    assert set(bench.peers()) == wanted


@pytest.mark.skipif(interpreted(), reason="the interpreter compiles nothing")
@pytest.mark.parametrize(
    ("name", "head_dim", "kernels"),
    [
        ("causal", 64, ("forward", "backward_rows", "backward_columns")),
        ("causal", 128, ("forward",)),
        ("sliding_window", 64, ("forward",)),
        ("alibi", 64, ("forward",)),
        ("softcap", 128, ("forward",)),
    ],
)
def test_loops_over_tiles_are_short(name: str, head_dim: int, kernels: tuple[str, ...]) -> None:
    """At most the share of the peer's instructions that is the goal; nothing spills."""
    bench = static()
    found = [bench.measure(name, kernel, head_dim) for kernel in kernels]
    assert not any(m.spills or m.serialised for m in found)
    shares = bench.ratios(found)
    assert shares
    for share, most in shares.values():
        assert share <= most


@pytest.mark.skipif(interpreted(), reason="the interpreter compiles nothing")
def test_loops_without_a_peer_are_short() -> None:
    bench = static()
    for name, most in bench.ALONE.items():
        found = bench.measure(name, "backward_rows", 64)
        assert not found.spills
        assert found.per_element <= most
