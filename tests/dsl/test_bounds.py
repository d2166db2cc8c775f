"""Loop bounds against brute force: nothing allowed is skipped, no full tile has a hole."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest
import torch

from attnspec.codegen.library import find, names
from attnspec.dsl.analysis import analyze
from attnspec.dsl.analysis.bounds import HI, LO, Bounds, Run, hull
from attnspec.dsl.analysis.inlining import inline
from attnspec.dsl.analysis.positions import coordinates, nonnegative
from attnspec.dsl.ast import Apply, Expr, Index, Literal, Read, Size, Spec, walk
from attnspec.dsl.check import check
from attnspec.dsl.diagnostics import AttnError
from attnspec.dsl.parse import parse
from attnspec.runtime.sampling import sample

Env = Mapping[str, int]


def value(expr: Expr, env: Env) -> float:
    """A number, from its definition."""
    match expr:
        case Literal(value=number):
            return number
        case Index(axis=name) | Read(name=name, index=()):
            return env[name]
        case Size(of=name):
            return env[f"size {name}"]
        case Apply(op="where", args=(c, a, b)):
            return value(a if value(c, env) else b, env)
        case Apply(op=op, args=args):
            return OPERATIONS[op](*(value(a, env) for a in args))
    raise NotImplementedError(type(expr).__name__)


OPERATIONS: dict[str, Callable[..., float]] = {
    "add": lambda *x: sum(x),
    "sub": lambda a, b: a - b,
    "mul": lambda *x: x[0] * x[1] * (x[2] if len(x) > 2 else 1),
    "div": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "abs": abs,
    "min": min,
    "max": max,
    "clamp": lambda x, a, b: min(max(x, a), b),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "and": lambda *x: all(x),
    "or": lambda *x: any(x),
    "not": lambda a: not a,
}


def checked(text: str) -> Spec:
    return check(parse(text))[0]


def positional(spec: Spec) -> bool:
    """Whether the mask is decided by positions and sizes alone, with operations known here."""
    if spec.mask is None:
        return False
    for node in walk(coordinates(inline(spec, spec.mask), spec)):
        known = isinstance(node, Literal | Index | Size) or (
            isinstance(node, Apply) and node.op in {*OPERATIONS, "where"}
        )
        number = isinstance(node, Read) and not node.index
        if not known and not number:
            return False
        if isinstance(node, Index) and node.axis not in ("i", "j"):
            return False
    return True


def ends(found: Run, env: Env, low: int, high: int) -> tuple[int, int, int, int]:
    """first, last, full_first, full_last with open ends at `low` and `high`."""

    def end(expr: Expr | None, otherwise: int) -> int:
        return otherwise if expr is None else int(value(expr, env))

    full = (end(found.full_first, low), end(found.full_last, high)) if found.full else (1, 0)
    return end(found.first, low), end(found.last, high), *full


def hold(spec: Spec, sizes: Env, q_start: int, k_start: int, tiles: tuple[int, ...]) -> int:
    """Check both loops over every tile; gives the number of tiles that are full."""
    facts = analyze(spec)
    assert spec.mask is not None
    mask = coordinates(inline(spec, spec.mask), spec)
    rows = range(q_start, q_start + sizes["size i"])
    columns = range(k_start, k_start + sizes["size j"])
    allowed = {(i, j) for i in rows for j in columns if value(mask, {**sizes, "i": i, "j": j})}
    full = 0
    for mine, others, found, turned in (
        (rows, columns, hull(facts.rows), False),
        (columns, rows, hull(facts.columns), True),
    ):
        for size in tiles:
            for start in range(mine.start, mine.stop, size):
                tile = range(start, min(start + size, mine.stop))
                env = {**sizes, LO: tile[0], HI: tile[-1]}
                first, last, inner, until = ends(found, env, others.start, others.stop - 1)
                for x in others:
                    reached = [((x, a) if turned else (a, x)) in allowed for a in tile]
                    assert first <= x <= last or not any(reached), (size, start, x)
                    if inner <= x <= until and first <= x <= last:
                        assert all(reached), (size, start, x)
                        full += 1
    return full


LIBRARY = [n for n in names() if positional(checked(find(n)[0]))]


@pytest.mark.parametrize("name", LIBRARY)
def test_library_masks(name: str) -> None:
    spec = checked(find(name)[0])
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        bound = sample(spec, generator, q_start=0 if spec.grids or seed < 2 else 7)
        sizes = {f"size {k}": v for k, v in bound.sizes.items()}
        sizes |= {k: int(v) for k, v in bound.scalars.items()}
        hold(spec, sizes, bound.q_start, bound.k_start, (4, 8))


def test_there_are_library_masks_to_check() -> None:
    assert len(LIBRARY) >= 25


def random_mask(rng: random.Random) -> str:
    """A conjunction or union of comparisons that bounds can partly read."""

    def side(name: str) -> str:
        c = rng.randint(1, 7)
        return rng.choice(
            [name, name, f"{name} // {c}", f"({name} + {c}) // {c}", f"({name} // {c}) * {c}"]
        )

    def comparison() -> str:
        op = rng.choice(["<=", "<", ">=", ">", "=="])
        a, b, c = side("i"), side("j"), rng.randint(0, 9)
        return rng.choice(
            [
                f"{b} {op} {a}",
                f"{a} - {b} {op} {c}",
                f"abs(i - j) <= {c}",
                f"max({a}, {c}) >= {b}",
                f"{b} + {c} {op} min({a}, {rng.randint(5, 40)})",
                f"j {op} {c * 3}",
                f"i % {c + 1} {op} j % {c + 1}",
                f"not ({b} {op} {a} + {c})",
                f"clamp({a}, {c}, {c + 9}) {op} {b}",
            ]
        )

    parts = [comparison() for _ in range(rng.randint(1, 3))]
    mask = " and ".join(parts)
    return f"({mask}) or ({comparison()})" if rng.random() < 0.3 else mask


@pytest.mark.parametrize("seed", range(120))
def test_random_masks(seed: int) -> None:
    rng = random.Random(seed)
    spec = None
    while spec is None:
        try:
            spec = checked(f"attention m\nmask {random_mask(rng)}\n")
        except AttnError:  # a mask that the checker proves to be empty
            continue
    sizes = {"size i": rng.randint(1, 40), "size j": rng.randint(1, 40)}
    hold(spec, sizes, rng.choice([0, 0, 5]), rng.choice([0, 0, 3]), (1, 8, 16))


@pytest.mark.parametrize(
    ("mask", "least"),
    [
        ("j <= i", 100),
        ("i - 9 <= j <= i", 40),
        ("i // 8 == j // 8", 40),
        ("j < 16", 100),
        ("abs(i - j) <= 12", 100),
        ("j <= max(i, 11)", 100),
        ("not (j > i)", 100),
    ],
)
def test_full_tiles_are_found(mask: str, least: int) -> None:
    assert (
        hold(checked(f"attention m\nmask {mask}\n"), {"size i": 40, "size j": 40}, 0, 0, (4,))
        >= least
    )


@pytest.mark.parametrize(
    ("mask", "tile", "first", "last"),
    [
        ("j <= i", (8, 15), None, 15),
        ("i - 5 < j <= i", (8, 15), 4, 15),
        ("i // 8 == j // 8", (8, 11), 8, 15),
        ("j <= i or j < 4", (0, 1), None, 3),
        ("abs(i - j) <= 2", (8, 15), 6, 17),
        ("abs(i - j) < 2", (8, 15), 7, 16),
        ("j < min(i, 12)", (8, 15), None, 11),
        ("j // 4 < i // 4", (8, 15), None, 11),
        ("2 * i >= j", (8, 15), None, 30),
    ],
)
def test_bounds_are_tight(
    mask: str, tile: tuple[int, int], first: int | None, last: int | None
) -> None:
    found = analyze(checked(f"attention m\nmask {mask}\n")).rows.runs[0]
    env = {LO: tile[0], HI: tile[1]}
    assert (None if found.first is None else value(found.first, env)) == first
    assert (None if found.last is None else value(found.last, env)) == last


def test_a_mask_over_inputs_bounds_nothing() -> None:
    found = analyze(checked("attention m\ninput keep[b, j]: bool\nmask keep[j]\n"))
    assert found.rows == Bounds((Run(full=False),), tight=False)


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

    spec = checked(f"attention m\nmask {expr(3)} >= {expr(1)} - 100\n")
    assert isinstance(spec.mask, Apply)
    for node in walk(spec.mask):
        if isinstance(node, Apply) and nonnegative(node):
            for i in range(0, 20, 3):
                for j in range(0, 20, 4):
                    assert value(node, {"i": i, "j": j}) >= 0
