"""Tile bounds against brute force: nothing allowed is skipped, no full tile has a hole."""

from __future__ import annotations

import random

import pytest
import torch
from tests.dsl.tiles import Count, Loops, survey, value

from attnspec.codegen.library import find, names
from attnspec.dsl.analysis.bounds import describe
from attnspec.dsl.analysis.positions import nonnegative
from attnspec.dsl.analysis.runs import MOST_RUNS, Bounds, Run
from attnspec.dsl.ast import Apply, Expr, Index, walk
from attnspec.dsl.check import check
from attnspec.dsl.diagnostics import AttnError
from attnspec.dsl.parse import parse
from attnspec.runtime.bind import Bound
from attnspec.runtime.sampling import sample

TILES = (16, 32, 64, 128)
LONGEST = 300
# Library masks whose loops visit a tile without a pair although every comparison was read.
VISITED_EMPTY = {
    "block_halo": "how far a tile of keys is seen and where the keys end are two ends, not one",
}


def call(loops: Loops, seed: int, *, starts: bool = True, **sizes: int) -> Bound:
    """Arguments for a call of up to `LONGEST` tokens, or on a grid."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = {"b": 1, "h": 2, "d": 2}
    for grid in loops.spec.grids:
        most = {2: 17, 3: 6}[len(grid.names)]
        drawn |= {f"{grid.side}.{name}": rng.randint(1, most) for name in grid.names}
    if not loops.spec.grids:
        drawn |= {"i": rng.randint(1, LONGEST), "j": rng.randint(1, LONGEST)}
    start = rng.choice([0, 0, rng.randint(1, 40)]) if starts and not loops.spec.grids else 0
    few = {"b": 1, "h": 2, "d": 2}
    for given, first in ((drawn | sizes, start), (few, start), (few, 0)):
        try:
            return sample(loops.spec, generator, given, q_start=first)
        except AttnError as error:  # these sizes, or this start, do not satisfy the spec
            refused = error
    raise refused


def distinct() -> list[str]:
    """A library spec for every mask that there is."""
    found: dict[tuple[object, ...], str] = {}
    for name in names():
        spec = check(parse(find(name)[0]))[0]
        if spec.mask is not None:
            key = (spec.mask, spec.grids, spec.requires, tuple(d.where for d in spec.decls))
            found.setdefault(key, name)
    return list(found.values())


LIBRARY = distinct()


@pytest.mark.parametrize("name", LIBRARY)
def test_library_masks(name: str) -> None:
    loops = Loops.of(find(name)[0])
    total = Count()
    for seed in range(12):
        bound = call(loops, seed)
        for tile, across in ((TILES[seed % 4], 64), (16, TILES[seed % 3])):
            total += survey(loops, bound, tile, across)
    assert total.full <= total.all
    if loops.rows.tight and loops.columns.tight:
        assert bool(total.empty) == (name in VISITED_EMPTY)
    else:
        assert name not in VISITED_EMPTY


def test_most_library_masks_over_positions_are_read() -> None:
    loops = [Loops.of(find(name)[0]) for name in LIBRARY]
    assert sum(x.rows.tight and x.columns.tight for x in loops) >= 25


@pytest.mark.parametrize(
    "mask",
    [
        "j <= i",
        "i - 70 < j <= i",
        "i // 48 == j // 48",
        "j <= i and (j < 5 or i - j < 40)",
        "(j - 4) // 60 <= i // 20",
        "abs(i - j) <= 37.5",
    ],
)
def test_every_length(mask: str) -> None:
    loops = Loops.of(f"attention m\nmask {mask}\n")
    for length in range(1, LONGEST + 1):
        bound = call(loops, length, i=length, j=length)
        found = survey(loops, bound, TILES[length % 4], TILES[length // 4 % 4])
        assert found.empty == 0


def random_mask(rng: random.Random) -> str:
    """Unions and conjunctions of comparisons, most of which bounds can read."""

    def side(name: str) -> str:
        c, s = rng.randint(1, 40), rng.randint(0, 60)
        return rng.choice(
            [name, name, name, f"{name} // {c}", f"({name} + {s}) // {c}", f"{name} // {c} * {c}",
             f"{name} // w * w", f"clamp({name}, {s}, {s + c})", f"{c} * {name}",
             f"max({name} - {s}, 0)", f"min({name}, {3 * s})", f"({name} - {name} % {c})",
             f"{name} % {c}", f"({name} + {name} // {c})", f"where({name} < {2 * s}, {name}, {s})"]
        )  # fmt: skip

    def comparison() -> str:
        op = rng.choice(["<=", "<", ">=", ">", "=="])
        a, b, c, s = side("i"), side("j"), rng.randint(0, 90), rng.randint(1, 9)
        return rng.choice(
            [f"{b} {op} {a}", f"{b} {op} {a}", f"{a} - {b} {op} {c}", f"abs(i - j) {op} {c}",
             f"max({a}, {c}) >= {b}", f"{b} + {c} {op} min({a}, {rng.randint(5, 240)})",
             f"j {op} {c}", f"i {op} w", f"i % {s} {op} j % {s}", f"(i - j) % {s} == 0",
             f"not ({b} {op} {a} + {c})", f"abs(i - j) <= {c} / 2", f"i - j < 0.3 * w + {s}",
             f"(i - j) // {s} {op} {c // 9}", f"abs({s} * i - j) <= w", f"i != j + {c}",
             f"clamp(i - j, 0, {c}) {op} {s}", f"floor(i / {s}) {op} floor(j / {s})",
             f"h >= {rng.randint(0, 1)}", f"j % {s} >= {s // 2}", f"w * j <= {c} * i + {s}",
             "(j - i) * 1.5 <= x", f"i // {s} {op} 0.5 * j", f"j // 2.5 {op} i - {c}",
             f"i * 0.7 {op} j - {s}", f"j % 2.5 <= i % {s}", f"j / 3 + i / 7 {op} {c}",
             f"min(j, w) + j // {s} <= i"]
        )  # fmt: skip

    def condition(depth: int) -> str:
        if depth == 0:
            return comparison()
        parts = [condition(depth - 1) for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.1:
            parts = [f"({part})" for part in parts[:2]]
            return f"({rng.choice([' == ', ' != ']).join(parts)})"
        text = f" {rng.choice(['and', 'or'])} ".join(parts)
        return f"not ({text})" if rng.random() < 0.1 else f"({text})"

    return condition(rng.randint(0, 2))


@pytest.mark.parametrize("seed", range(250))
def test_random_masks(seed: int) -> None:
    rng = random.Random(seed)
    declared = "input w: int where w > 0\ninput x: float = 20\n"
    for _ in range(50):
        try:
            loops = Loops.of(f"attention m\n{declared}mask {random_mask(rng)}\n")
        except AttnError:  # an empty mask, or a number that the mask does not use
            continue
        break
    for at in range(3):
        survey(loops, call(loops, 3 * seed + at), rng.choice(TILES), rng.choice(TILES))


@pytest.mark.parametrize(
    "mask",
    [
        "j <= i",
        "j < i",
        "i - 70 < j <= i",
        "abs(i - j) <= 40",
        "abs(i - j) <= 40 / 2 + 0.5",
        "i // 8 == j // 8",
        "i // 48 == j // 48 and j <= i",
        "j // 5 <= i // 3",
        "3 * j // 5 <= 2 * i",
        "max(j, 20) <= i + 4",
        "min(i, 33) <= j + 1",
        "j >= clamp(i, 10, 130)",
        "i + j < 240",
        "2 * i >= 3 * j",
        "j + j // 4 * 4 <= i + 7",
        "clamp(i - 30, 0, 200) <= j < clamp(i - 30, 0, 200) + 61",
        "i - i % 32 <= j",
        "i != j",
        "not (i - 20 < j < i)",
        "i == 0 or j == 0 or abs(i - j) <= 20",
        "j <= i and (j < 5 or i - j < 40)",
        "j <= i and (h >= 1 or i - j < 40)",
        "j < 128 or (j <= i and i // 50 == j // 50)",
        "where(h == 1, j <= i, i - j < 50 and j <= i)",
        "where(h == 1, j <= i, j >= i)",
        "(i < 64) == (j < 64)",
        "(i < 64) == (h > 0)",
        "j <= abs(i - 60)",
        "clamp((20.3 - (i - j)) / 10, 0, 1) > 0",
        "i // w == j // w",
        "j <= i and i - j < w",
        "w * i >= j",
        "i == 0 or j <= i - w",
        "i < w or j <= i and i - j < w",
    ],
)
def test_bounds_are_exact(mask: str) -> None:
    loops = Loops.of(f"attention m\ninput w: int = 3 where w > 0\nmask {mask} and w > 0\n")
    assert loops.rows.tight
    assert loops.columns.tight
    for seed in range(6):
        tile = TILES[seed % 3]
        found = survey(loops, call(loops, seed), tile, tile)
        assert found.empty == 0
        assert found.full == found.all


def runs_of(mask: str, inputs: str = "") -> Bounds:
    return Loops.of(f"attention m\n{inputs}\nmask {mask}\n").rows


@pytest.mark.parametrize(
    ("mask", "runs"),
    [
        ("j <= i or j < 4", 1),  # both begin at the start
        ("j <= i and (j < 4 or i - j < 9)", 2),
        ("i == 0 or j == 0 or abs(i - j) <= 4", 2),  # one is everything for the first query
        ("i != j", 2),
        ("j == 3 or j == 30 or j == 60 or j == 90 or j == 120 or j == 150", MOST_RUNS),
        ("(j == 3 or j == 30 or j == 60) and (j - i == 3 or j - i == 6)", MOST_RUNS),
    ],
)
def test_number_of_runs(mask: str, runs: int) -> None:
    found = runs_of(mask)
    assert len(found.runs) == runs
    assert found.tight == (runs < MOST_RUNS)


@pytest.mark.parametrize(
    ("mask", "tight"),
    [
        ("j <= i", True),
        ("j <= i and j % 16 >= 4", True),
        ("j <= i and j % 17 >= 4", False),
        ("j % 4 == 1 and i % 3 == j % 3", True),
        ("j % 8 == 1 and i % 3 == j % 3", False),
        ("j <= i and (i - j) % 31 == 0", True),
        ("j <= i and (i - j) % 32 == 0", False),
        ("j <= i and (i + j) % 17 == 0", False),
        ("j <= i and (i - 2 * j) % 17 == 0", False),
        ("j <= i and (i - j) % w == 0", False),
        ("j // 8 % 2 == 0", False),
        ("i * j < 90", False),
    ],
)
def test_what_is_left_out(mask: str, tight: bool) -> None:
    found = runs_of(mask, "input w: int = 3 where w > 0" if "w" in mask else "")
    assert found.tight == tight


def test_a_sign_that_is_not_proved_bounds_nothing() -> None:
    found = runs_of("i + w * j <= 9", "input w: int = 3")
    assert found == Bounds((Run(full=False),), tight=False)
    assert runs_of("i + w * j <= 9", "input w: int = 3 where w > 0").tight


def test_a_mask_over_inputs_bounds_nothing() -> None:
    found = runs_of("keep[j]", "input keep[b, j]: bool")
    assert found == Bounds((Run(full=False),), tight=False)


@pytest.mark.parametrize("mask", ["abs(i - j) <= x", "i - j <= x", "j - i <= x"])
def test_what_is_not_a_number_fills_no_tile(mask: str) -> None:
    loops = Loops.of(f"attention m\ninput x: float = 3 where x >= 0\nmask {mask}\n")
    bound = call(loops, 1, i=64, j=64)._replace(q_start=0)
    for x in (float("nan"), float("inf"), float("-inf"), 1e30, 20.0):
        found = survey(loops, bound._replace(scalars={"x": x}), 16, 16)
        assert (found.full > 0) == (x > 0)


@pytest.mark.parametrize(
    "mask",
    [
        "not (i - j <= x)",
        "i * 0.1 <= x and j <= i",
        "j * x <= i",
        "j <= where(i < 70, i, 2)",
        "j <= i and (i - j) % 3 == 0",
        "i < 40 or (j <= i and i - j < 9) or h == 1",
        "j == 3 or j == 30 or j == 60 or j == 90 or j == 120 or j == 150",
    ],
)
@pytest.mark.parametrize("x", [2.5, 0.3, float("nan")])
def test_bounds_are_sound(mask: str, x: float) -> None:
    reads = "input x: float = 3\n" if "x" in mask else ""
    loops = Loops.of(f"attention m\n{reads}mask {mask}\n")
    for seed in range(3):
        bound = call(loops, seed)
        survey(loops, bound._replace(scalars={"x": x} if reads else {}), 32, 16)


def test_a_mask_that_takes_too_long_bounds_nothing() -> None:
    many = " + ".join(f"abs(j - {k})" for k in range(12))
    found = runs_of(f"{many} <= i")
    assert found == Bounds((Run(full=False),), tight=False)


@pytest.mark.parametrize("position", ["i", "j"])
def test_equal_conditions_are_read_once_each(position: str) -> None:
    """Each `==` asks for its sides and for their opposites: twice as much at every level."""
    mask = f"{position} < 3"
    for limit in range(30):
        mask = f"({mask}) == ({position} < {limit})"
    assert len(runs_of(f"j <= i or ({mask})").runs) <= MOST_RUNS


def test_facts_show_both_loops() -> None:
    loops = Loops.of(
        "attention m\ninput s: int = 4 where s >= 0\nmask j <= i and (j < s or h > 2)\n"
    )
    facts = {f.name: f.value for f in describe(loops.spec.mask, loops.rows, loops.columns)}
    assert facts == {
        "keys of a tile of queries": "start .. min(hi, where(h > 2, end, s - 1))"
        " (full: start .. min(lo, where(h > 2, end, s - 1)))",
        "queries of a tile of keys": "lo .. end if lo < s or h > 2"
        " (full: hi .. end if hi < s or h > 2)",
    }


@pytest.mark.parametrize("seed", range(40))
def test_nonnegative_is_sound(seed: int) -> None:
    rng = random.Random(seed)

    def expr(depth: int) -> str:
        if depth == 0:
            return rng.choice(["i", "j", "3", "0", "7"])
        a, b = expr(depth - 1), expr(depth - 1)
        return rng.choice(
            [f"({a} + {b})", f"({a} - {b})", f"max({a}, {b})", f"min({a}, {b})", f"({a} * {b})",
             f"abs({a})", f"(-{a})", f"({a} // 5)", f"({a} % 5)", f"clamp({a}, 0, 9)"]
        )  # fmt: skip

    spec = check(parse(f"attention m\nmask {expr(3)} >= {expr(1)} - 100\n"))[0]
    assert isinstance(spec.mask, Apply)
    i, j = torch.arange(0, 20, 3)[:, None], torch.arange(0, 20, 4)

    def at(leaf: Expr) -> torch.Tensor:
        assert isinstance(leaf, Index)
        return i if leaf.axis == "i" else j

    for node in walk(spec.mask):
        if isinstance(node, Apply) and nonnegative(node):
            assert (value(node, at) >= 0).all()
