"""Masks over tiles against every pair: what is allowed is possible, what is certain has no hole."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
import torch
from tests.dsl.tiles import Leaf, value
from torch import Tensor

from attnspec.dsl.analysis.boxes import Box, box
from attnspec.dsl.analysis.inlining import inline
from attnspec.dsl.analysis.positions import coordinates
from attnspec.dsl.ast import Expr, Index, Read, Size, Spec
from attnspec.dsl.check import check
from attnspec.dsl.diagnostics import AttnError
from attnspec.dsl.parse import parse

Env = Mapping[str, Tensor]


def at_hand(spec: Spec, env: Env) -> Leaf:
    """Positions, sizes and inputs over whatever the tensors in `env` are laid out over."""

    def leaf(expr: Expr) -> Tensor:
        match expr:
            case Index(axis=name):
                return env[name]
            case Size(of=name):
                return env[f"size {name}"]
            case Read(name=name, index=index):
                tensor, decl = env[f"tensor {name}"], spec.decl(name)
                assert decl is not None
                at = [value(x, leaf) - env.get(f"start {a}", torch.tensor(0))
                      for a, x in zip(decl.axes, index, strict=True)]  # fmt: skip
                # any tensor will do: where the two sides start apart, its rows repeat
                return tensor[tuple(x % n for x, n in zip(at, tensor.shape, strict=True))]
        raise NotImplementedError(type(expr).__name__)

    return leaf


def described(text: str) -> tuple[Spec, Expr, Box]:
    """A spec, its mask written out, and the mask over a tile."""
    spec, _ = check(parse(text))
    assert spec.mask is not None
    mask = coordinates(inline(spec, spec.mask), spec)
    return spec, mask, box(spec, mask)


def hold(
    text: str, sizes: tuple[int, int], given: Env, tile: tuple[int, int], starts: tuple[int, int]
) -> Tensor:
    """Check every tile; numbers of tiles: visited, of them empty, full, of them found."""
    spec, mask, found = described(text)
    env = dict(given) | {"size i": torch.tensor(sizes[0]), "size j": torch.tensor(sizes[1])}
    env |= {"start i": torch.tensor(starts[0]), "start j": torch.tensor(starts[1])}
    env["i"] = torch.arange(sizes[0])[:, None] + starts[0]
    env["j"] = torch.arange(sizes[1])[None, :] + starts[1]
    leaf = at_hand(spec, env)
    allowed = value(mask, leaf).expand(sizes)
    for axis in ("i", "j"):
        env[f"lo_{axis}"], env[f"hi_{axis}"] = reduced(env[axis], tile)
    for end in found.ends:
        env[end.low], env[end.high] = reduced(value(end.of, leaf), tile)
    every, some = reduced(allowed, tile)
    possible, certain = (value(x, leaf) for x in (found.possible, found.certain))
    assert not (some & ~possible).any(), text
    assert not (certain & ~every).any(), text
    visited, known = possible.expand(some.shape), certain.expand(some.shape)
    return torch.stack([visited.sum(), (visited & ~some).sum(), every.sum(), known.sum()])


def reduced(x: Tensor, tile: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of every tile; a side of size 1 stays."""
    low = high = x
    for axis, size in enumerate(tile):
        if x.shape[axis] > 1:
            low = torch.stack([part.amin(axis) for part in low.split(size, axis)], axis)
            high = torch.stack([part.amax(axis) for part in high.split(size, axis)], axis)
    return low, high


INPUTS = """attention m
input doc[n]: int
input kind[n]: int
input reach[n]: int
input keep[n]: bool
input hot[n]: bool
input image[n]: int where 0 <= image < 4
input offset[4]: int
input near[i, j]: bool
input cost[i, j]: int
input time[n]
input mass[n]
input width: int = 5 where width > 0
"""


def random_inputs(rng: random.Random, rows: int, columns: int) -> dict[str, Tensor]:
    """Sorted, repeated or wild numbers; rare or frequent flags; some floats that are none."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    length = max(rows, columns)

    def ints(most: int) -> Tensor:
        x = torch.randint(0, most, (length,), generator=generator)
        return x.sort().values if rng.random() < 0.6 else x

    def flags(*shape: int) -> Tensor:
        whole = torch.rand(shape, generator=generator) < rng.choice([0.02, 0.5, 0.98])
        whole[: rng.randint(0, shape[0])] = rng.random() < 0.5
        return whole

    def floats() -> Tensor:
        x = torch.randn(length, generator=generator)
        x = x.sort().values if rng.random() < 0.5 else x
        odd = torch.tensor([float("nan"), float("inf"), float("-inf")])
        at = torch.randint(0, length, (rng.choice([0, 0, 3]),), generator=generator)
        x[at] = odd[: len(at)]
        return x

    found = {"doc": ints(rng.choice([2, 9, 40])), "kind": ints(3), "reach": ints(60) - 5}
    found |= {"keep": flags(length), "hot": flags(length), "near": flags(rows, columns)}
    found |= {"image": ints(4), "offset": torch.randint(0, length, (4,), generator=generator)}
    found |= {"cost": torch.randint(0, 50, (rows, columns), generator=generator)}
    found |= {"time": floats() * 3, "mass": floats(), "width": torch.tensor(rng.randint(1, 70))}
    return {f"tensor {name}": x for name, x in found.items()}


def random_mask(rng: random.Random) -> str:
    """Conditions over positions and inputs, joined at random."""

    def number(token: str) -> str:
        c = rng.randint(1, 40)
        return rng.choice(
            [token, token, f"{token} // {c}", f"{token} % {c}", f"doc[{token}]", f"kind[{token}]",
             f"({token} + reach[{token}])", f"offset[image[{token}]]", f"clamp({token}, {c}, 99)",
             f"where(keep[{token}], {token}, doc[{token}])", f"max({token}, reach[{token}])",
             f"{token} // width", f"({token} - {c}) ** 2"]
        )  # fmt: skip

    def condition(depth: int) -> str:
        if depth and rng.random() < 0.5:
            a, b = condition(depth - 1), condition(depth - 1)
            joined = f"({a} and {b})", f"({a} or {b})", f"not ({a})", f"(({a}) == ({b}))"
            return rng.choice(joined)
        a, b, c = number("i"), number("j"), rng.randint(0, 60)
        op = rng.choice(["<=", "<", ">=", ">", "==", "!="])
        return rng.choice(
            [f"{a} {op} {b}", f"{a} - {b} {op} {c}", f"abs({a} - {b}) <= {c}", "keep[j]",
             "keep[i] and keep[j]", "hot[i] == hot[j]", "hot[i] or keep[j]", "near[i, j]",
             f"cost[i, j] + {a} {op} {c}", f"time[i] {op} time[j]", "mass[j] > 0",
             f"abs(time[i] - time[j]) <= {c / 10}", f"time[i] + mass[j] {op} 0.5",
             f"mass[i] * mass[j] {op} 0", f"({a} + {b}) % {c + 1} {op} {c // 2}",
             f"(i - j) / 2 {op} {c / 4}", f"floor(i / width) {op} j // width",
             f"({b} - {a}) // width {op} 1", f"-{a} * {b} {op} -{c}",
             f"j {op} where({a} < {c}, i, {b})", f"min({a}, {b}, {c}) {op} {c // 2}",
             "abs(i - j) <= width / 2"]
        )  # fmt: skip

    return condition(2)


@pytest.mark.parametrize("seed", range(300))
def test_random_masks(seed: int) -> None:
    rng = random.Random(seed)
    text = ""
    while not text:
        try:
            text = f"{INPUTS}mask {random_mask(rng)}\n"
            check(parse(text))
        except AttnError as error:
            if "the mask is empty" not in str(error):
                raise
            text = ""
    rows, columns = rng.randint(1, 300), rng.randint(1, 300)
    tile = rng.choice([16, 32, 64, 128]), rng.choice([16, 32, 64, 128])
    starts = rng.choice([(0, 0), (0, 0), (17, 5)])
    hold(text, (rows, columns), random_inputs(rng, rows, columns), tile, starts)


def sorted_documents(length: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    ends = torch.randperm(length - 1, generator=generator)[: count - 1].sort().values + 1
    return torch.bucketize(torch.arange(length), ends, right=True)


@pytest.mark.parametrize(
    ("mask", "given", "empty"),
    [
        ("doc[i] == doc[j]", "doc", 0),
        ("doc[i] == doc[j] and j <= i", "doc", 0),
        ("doc[i] != doc[j]", "doc", 0),
        ("doc[i] <= doc[j]", "doc", 0),
        ("keep[j]", "keep", 0),
        ("keep[i] and keep[j]", "keep", 0),
        ("not (keep[i] and keep[j])", "keep", 0),
        ("keep[i] == keep[j]", "keep", 0),
        ("j % 64 >= 60", "", 0),
        ("i // 40 == j // 40", "", 0),
        ("near[i, j]", "near", 0),
        ("abs(time[i] - time[j]) <= 0.25", "time", 3),
    ],
)
def test_tiles_are_found(mask: str, given: str, empty: int) -> None:
    """No empty tile is visited, every full one is known (a few touch in a corner alone)."""
    length = 300
    keep = torch.arange(length) < 131
    inputs = {
        "tensor doc": sorted_documents(length, 7),
        "tensor keep": keep,
        "tensor near": keep[:, None] & (torch.arange(length) > 170),
        "tensor time": torch.linspace(0, 1, length),
    }
    declared = {"near": "[i, j]: bool", "doc": "[n]: int", "keep": "[n]: bool", "time": "[n]"}
    head = f"input {given}{declared[given]}\n" if given else ""
    counts = hold(f"attention m\n{head}mask {mask}\n", (length, length), inputs, (16, 16), (0, 0))
    visited, of_them_empty, full, found = counts.tolist()
    assert 0 < visited < 19 * 19
    assert of_them_empty <= empty
    assert found == full


def test_what_is_not_a_number_decides_nothing() -> None:
    inputs = {"tensor m": torch.tensor([float("nan"), 1.0, float("inf"), float("-inf")])}
    for mask in ("m[j] > 0", "not (m[j] > 0)", "m[j] >= m[i]", "m[i] - m[j] <= 1", "m[j] == m[j]"):
        hold(f"attention a\ninput m[n]\nmask {mask}\n", (4, 4), inputs, (2, 2), (0, 0))


def test_a_condition_on_the_score_decides_nothing() -> None:
    _, _, found = described("attention a\nmask dot(q[i], k[j]) > 0\n")
    assert not found.decides


def test_a_condition_that_takes_too_much_decides_nothing() -> None:
    lets = [f"let x{n + 1} = x{n} * (j - x{n})" for n in range(6)]
    text = "\n".join(["attention a", "let x0 = i - j", *lets, "mask x6 > 0", ""])
    _, _, found = described(text)
    assert not found.decides
    _, _, found = described(text.replace("x6 > 0", "x1 > 0"))
    assert found.decides
