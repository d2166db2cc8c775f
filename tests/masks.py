"""Random conditions on a pair, for `tests.pieces`.

Every condition stays inside its domain by construction. `SHARES` says how often each family is
drawn, `FORMS` what is in it; a comparison with a real number is one that float32 decides as
float64 does: halves and quarters are exact, and one rounded division is monotone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Protocol

SHARES: Mapping[str, int] = {
    "plain": 14,
    "windows": 10,
    "divisions": 8,
    "modulos": 8,
    "clamped": 6,
    "reals": 6,
    "one side": 6,
    "choices": 3,
    "labels": 12,
    "kept": 8,
    "reaches": 6,
    "pairs": 3,
    "heads": 4,
}
ON_GRID: Mapping[str, int] = {"an axis": 40, "every axis": 30}  # besides, where there is a grid
JOINED = 0.4  # of conditions are made of two
PACKED = "[b, n]: int where {name}[n - 1, pad=0] <= {name}[n]"
GRIDS = ("y, x", "y, x", "f, y, x")

JOINS = ("({one} or {two})", "({one} or {two})", "({one}) or {two}", "({one}) and ({two})",
         "not ({one})")  # fmt: skip

# a, b lengths; s a positive one, t a literal one; m, n small numbers, n above 0
FORMS: Mapping[str, tuple[str, ...]] = {
    "plain": (
        "j <= i", "j <= i", "j <= i", "j < i", "j >= i", "j != i", "j < {a}", "j - i <= {a}",
        "2 * j <= i + {a}", "3 * i >= 2 * j + {m}", "i + j < {a} + M", "2 * j + j - i < {a}",
        "-j + {a} > i - j - {m}",
    ),
    "windows": (
        "i - {a} < j <= i", "abs(i - j) <= {a}", "abs(j - i) < {a}", "i - {a} <= j <= i + {b}",
        "-{m} <= i - j < {a}", "abs(i - j) > {m}", "abs(i - j - {m}) <= {a}",
        "not abs(i - j) <= {a}", "abs(i - j) <= {a} + i % 3",
    ),
    "divisions": (
        "i // {s} == j // {s}", "j // {s} <= i // {s}", "j // {s} < i // {s}",
        "i // {s} - j // {s} <= {m}", "abs(i // {s} - j // {s}) <= {m}", "(j - i) // {s} <= 1",
        "i // {s} != j // {s}", "j // {s} + j <= i + {a}", "j // {s} * {s} <= i",
        "i // {s} * {s} - {m} <= j", "(i + {m}) // {s} == (j + {m}) // {s}",
        "j // {n} // {s} <= i // {s}", "i // {s} == j // {s} + 1",
    ),
    "modulos": (
        "j % {s} < {m}", "i % {s} >= {m}", "(i - j) % {s} == 0", "i % {s} == j % {s}",
        "(i + j) % {s} <= {m}", "j % {s} >= {s} - {m}", "(i - j) % {s} < {m}",
        "(i % {s} == 0) == (j % 2 == 0)", "j % {s} <= i % {s}", "(j + {m}) % {s} == {m}",
        "j % {s} != 0", "i - j % {s} >= {m}",
    ),
    "clamped": (
        "clamp(i - {m}, 0, max(N - {n}, 0)) <= j < clamp(i - {m}, 0, max(N - {n}, 0)) + {n}",
        "clamp(i - 20, 0, max(N - 41, 0)) <= j < clamp(i - 20, 0, max(N - 41, 0)) + 41",
        "max(i - {a}, 0) <= j <= min(i + {b}, N - 1)", "max(j, {a}) <= i + {b}",
        "min(i, {a}) <= j + 1", "clamp(j, {m}, {n} + 30) <= i", "max(i, j) - min(i, j) < {a}",
        "j <= max(i, {a})", "j < min(i + 1, {a})",
    ),
    "reals": (
        "abs(i - j) <= {a} / 2", "abs(i - j) <= {reach}", "i - j < 0.5 * {a} + 1",
        "2 * (i - j) <= {reach}", "abs(i - j) / {n} <= {a}", "j / 2 <= i / 4 + {m}",
        "floor(j / {s}) <= i", "ceil(i / 4) >= j / 4", "-{reach} <= i - j",
        "abs(i - j) * 0.5 < {reach}",
    ),
    "one side": (
        "i == 0", "j == 0", "j == {m}", "i >= {a}", "i % {s} == 0", "i // {s} % 2 == 0",
        "i < {a}", "j >= N - {a}", "i == M - 1", "j * j < {a}",
    ),
    "choices": (
        "where({one side}, {plain}, {windows})", "where(i < {a}, j, i) <= {b}",
        "(({plain}) == ({windows}))", "({plain}) != ({windows})",
    ),
    # the last ones: documents that follow each other, and an input of a token's group
    "labels": (
        "{doc}[i] == {doc}[j]", "{doc}[i] == {doc}[j]", "{doc}[i] != {doc}[j]",
        "{doc}[j] <= {doc}[i]", "abs({doc}[i] - {doc}[j]) <= 1", "{doc}[i] > 0",
        "{doc}[j] == {m}", "({doc}[i] > 0 and {doc}[i] == {doc}[j])",
        "not ({doc}[i] > 0 and {doc}[j] > 0 and {doc}[i] != {doc}[j])",
        "({doc}[i] + {doc}[j]) % 2 == 0", "{doc}[i] // 2 == {doc}[j] // 2",
        "{seg}[i] == {seg}[j]", "{seg}[j] <= {seg}[i]", "{packed}[i] == {packed}[j]",
        "{packed}[i] - {packed}[j] == 1", "{open}[{group}[i]]", "{open}[{group}[j]]",
    ),
    "kept": (
        "{keep_j}[j]", "not {keep_j}[j]", "{keep_i}[i]", "({keep_n}[i] and {keep_n}[j])",
        "({keep_n}[i] or {keep_n}[j])", "{keep_n}[i] == {keep_n}[j]", "{level}[j] > 0",
        "{level}[j] <= 0.5", "where({keep_j}[j], {plain}, true)",
    ),
    "reaches": (
        "j <= i + {ahead}[i]", "{ahead}[i] <= j", "i <= {until}[j]", "abs(i - {until}[j]) <= 9",
        "j < {prefix}", "(j < {prefix} or j <= i)", "i - j < {prefix} + {n}",
        "j // {s} <= {ahead}[i]", "(i < {prefix} and j < {prefix})",
    ),
    "pairs": ("{keep_ij}[i, j]", "not {keep_ij}[i, j]", "{count}[i, j] > 1"),
    "heads": (
        "abs(i - j) <= {span}", "h % 2 == 0 or j <= i", "i - {span} < j",
        "{near}[clamp(i - j, 0, 8)]", "(h < 1 or i - j < {a})",
    ),
}  # fmt: skip

# along the axis x, whose size is X
AXIS = (
    "i.x == j.x", "abs(i.x - j.x) <= {n}", "j.x <= i.x", "i.x - {n} < j.x <= i.x",
    "i.x // {s} == j.x // {s}", "abs(i.x - j.x) <= {a}", "j.x == 0", "i.x % {n} == j.x % {n}",
    "clamp(i.x - 1, 0, max(X - 3, 0)) <= j.x < clamp(i.x - 1, 0, max(X - 3, 0)) + 3",
    "(i.x % {n} == j.x % {n} and abs(i.x // {n} - j.x // {n}) <= 1)", "(i.x + j.x) % {s} <= 1",
    "abs(i.x // {n} - j.x // {n}) <= 1", "(i.x - {m}) // 3 == (j.x - {m}) // 3",
)  # fmt: skip


class Source(Protocol):
    """Where names and numbers come from."""

    rng: Random
    heads: int

    def declare(self, form: str, prefix: str, rest: str) -> str:
        """A new name, or one that was declared alike before."""

    def tensor(self, form: str, prefix: str, axes: tuple[str, ...], rest: str = "") -> str:
        """A declaration over some of `axes`, the last one always."""


class Conditions:
    """Conditions on pairs, on a grid with these coordinates (none: no grid)."""

    def __init__(self, source: Source, names: tuple[str, ...]) -> None:
        self.source, self.rng, self.names = source, source.rng, names
        self.parts: dict[str, Callable[[], str]] = {
            "a": self.length, "b": self.length, "s": self.step,
            "m": lambda: str(self.small()), "n": lambda: str(self.small(1)),
            "reach": lambda: source.declare("input", "reach", f": float = {self.small(1, 30)}.25"),
            "doc": lambda: source.tensor("input", "doc", ("b", "h", "n"), ": int"),
            "seg": self.documents,
            "packed": lambda: source.declare("input", "packed", PACKED),
            "group": lambda: source.declare("input", "group", "[b, n]: int where 0 <= {name} < 5"),
            "open": lambda: source.declare("input", "open", "[b, 5]: bool"),
            "keep_j": lambda: self.boolean("b", "h", "j"),
            "keep_i": lambda: self.boolean("b", "h", "i"),
            "keep_n": lambda: self.boolean("b", "h", "n"),
            "keep_ij": lambda: self.boolean("b", "h", "i, j"),
            "near": lambda: self.boolean("h", "9"),
            "count": lambda: source.tensor("input", "count", ("b", "h", "i, j"), ": int"),
            "level": lambda: source.tensor("input", "level", ("b", "h", "j")),
            "ahead": lambda: source.tensor("input", "ahead", ("b", "h", "i"), ": int"),
            "until": lambda: source.tensor("input", "until", ("b", "h", "j"), ": int"),
            "prefix": lambda: source.declare("input", "prefix", "[b]: int"),
            "span": self.per_head,
        }  # fmt: skip
        for family in FORMS:
            self.parts[family] = partial(self.form, FORMS[family])

    def any(self, depth: int) -> str:
        """A condition of up to 2 ** depth parts."""
        if depth and self.rng.random() < JOINED:
            form = self.rng.choice(JOINS)
            return form.format(one=self.any(depth - 1), two=self.any(depth - 1))
        shares = {**SHARES, **(ON_GRID if self.names else {})}
        (family,) = self.rng.choices(list(shares), list(shares.values()))
        if family == "an axis":
            return self.along(self.rng.choice(self.names))
        if family == "every axis":
            return f"({' and '.join(map(self.along, self.names))})"
        return self.form(FORMS[family])

    def form(self, forms: tuple[str, ...]) -> str:
        """One of `forms`, each of its parts made once."""
        form = self.rng.choice(forms)
        used = dict.fromkeys(re.findall(r"{([\w ]+)}", form))
        return form.format(**{part: self.parts[part]() for part in used})

    def along(self, name: str) -> str:
        """A condition along one axis of the grid."""
        return re.sub(r"\bX\b", f"G{name.upper()}", self.form(AXIS)).replace(".x", f".{name}")

    # numbers

    def small(self, least: int = 0, most: int = 7) -> int:
        return self.rng.randint(least, most)

    def length(self) -> str:
        """A length, often longer than a tile is."""
        if self.rng.random() < 0.4:
            return self.source.declare("input", "width", f": int = {self.small(1, 40)}")
        return str(self.rng.choice((0, 1, 3, 5, 16, 33, 64, 100)))

    def step(self) -> str:
        """A positive length."""
        if self.rng.random() < 0.4:
            default = self.rng.choice((1, 2, 3, 7, 16, 33))
            rest = f": int = {default} where 0 < {{name}} < 90"
            return self.source.declare("input", "step", rest)
        return str(self.rng.choice((1, 2, 3, 4, 7, 16, 31, 32, 64)))

    # inputs

    def documents(self) -> str:
        """Numbers that never fall: how many documents have started up to a token."""
        first = self.source.declare("input", "first", "[b, n]: bool")
        return self.source.declare("let", "seg", f"[n] = cumsum(n, where({first}[n], 1, 0))")

    def boolean(self, *names: str) -> str:
        """A bool input over some of the axes, the last one always."""
        kept = [n for n in names[:-1] if self.rng.random() < 0.5]
        axes = ", ".join([*kept, names[-1]])
        prefix = f"keep_{''.join(c for c in axes if c.isalnum())}_"
        return self.source.declare("input", prefix, f"[{axes}]: bool")

    def per_head(self) -> str:
        """A length of each head."""
        if self.source.heads:
            values = [self.small(0, 20) for _ in range(self.source.heads)]
            return self.source.declare("const", "span", f"[h] = {values}")
        return self.source.declare("input", "far", "[h]: int")
