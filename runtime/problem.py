"""One call of a pairwise computation: what the CPU loops and the GPU launches both need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from attnspec.runtime.bind import Bound
from attnspec.runtime.tiles import BLOCK

Values: TypeAlias = "dict[str, Any]"
# Of each run: first and last position that may take part, first and last of the range without
# holes (None is no limit), and whether there is such a range.
Limits: TypeAlias = "tuple[tuple[Tensor | int | bool | None, ...], ...]"

# Of a tile's values, with holes or not: what takes part (None: every pair), a value and others.
Slopes: TypeAlias = (
    "Callable[[Values, bool], tuple[Tensor | None, Tensor, tuple[Tensor | float, ...]]]"
)


# Of several weights: what takes part (None: every pair), then the score of each and its others.
Scores: TypeAlias = "tuple[Tensor | tuple[Tensor | float, ...] | None, ...]"


Kind: TypeAlias = "tuple[object, ...]"

WIDE = ("map", "entries", "blocks")  # forms that give many numbers for a row
STARTS = ("q_start", "k_start")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A number per row, column, head, pair, or looked up in a table."""

    name: str
    role: str
    operand: str
    grad: bool


def _unchanged(values: Values) -> Values:
    """What a sum reads that has nothing to compute before."""
    return {}


def _none(values: Values) -> tuple[Tensor | float, ...]:
    """What a sum has of which there is none."""
    return ()


@dataclass(frozen=True, slots=True)
class ChannelSum:
    """A sum over `channel`, the tile `name`, of terms that read one element of each of `vectors`:
    `term(values)` is that at one channel, `slopes(values)` its derivatives to those with one. Or
    by `op` the largest term, or its place, -1 where none takes part: then a term comes with whether
    it does. The backward needs sums `beside` it: `terms(values)` are its term and theirs. All these
    read `before(values)`, which no channel changes, among the values."""

    name: str
    channel: str
    vectors: tuple[Leaf, ...]
    term: Callable[[Values], Any]
    op: str = "sum"
    before: Callable[[Values], Values] = _unchanged
    slopes: Callable[[Values], tuple[Tensor | float, ...]] = _none
    beside: tuple[str, ...] = ()
    terms: Callable[[Values], tuple[Tensor | float, ...]] = _none


@dataclass(frozen=True, slots=True)
class Scan:
    """A running sum along `side`, i or j, the tile `name`, in a block of tokens: of those before a
    pair's own, or `after` it, that one too if it counts its `own`. `carried` is the leaf that other
    blocks add; `slopes(values)` are the derivatives by `wanted` of what is summed up, if any."""

    name: str
    side: str
    after: bool
    own: bool
    carried: str
    wanted: tuple[str, ...]
    slopes: Callable[[Values], tuple[Tensor | float, ...]] | None


@dataclass(frozen=True, slots=True)
class Patches:
    """Compact tiles on a grid: its axes, slowest first, the tokens along each for queries and for
    keys (numbers, or their names; None: all positions), steps whose remainders part each axis, and
    `boxes(values)`: the `Limits` of the keys' coordinates along each axis for queries at
    coordinates `lo_y` to `hi_y` and so on, of the remainders `rest_y`."""

    axes: tuple[str, ...]
    rows: tuple[str | int | None, ...]
    columns: tuple[str | int | None, ...]
    steps: tuple[str | int, ...]
    boxes: Callable[[Values], Limits]


# names of the least and of the greatest value over a tile, and of the leaf
Ends: TypeAlias = "tuple[tuple[str, str, str], ...]"


@dataclass(frozen=True, slots=True)
class Ranges:
    """What blocks of one side reach of the other, searched for in ascending inputs.

    `rows(values)` and `columns(values)` give `Limits` as vectors over blocks of queries and of
    keys. They take the values called `row_names` and `column_names`: `lo` and `hi`, the first and
    last positions of blocks, `start_i` and `start_j` those of the first tokens, whole leaves, and
    the extreme values `ends` of blocks.
    """

    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    ends: Ends
    rows: Callable[[Values], Limits]
    columns: Callable[[Values], Limits]


@dataclass(frozen=True, slots=True)
class Blocks:
    """What is known of a whole tile from the extreme values of its rows and columns.

    `flags(values)` gives (some pair may take part, every pair does) over the values called
    `names`: `lo_i`, `hi_i`, `lo_j`, `hi_j` are the tile's first and last positions, `ends` its
    extreme values.
    """

    names: tuple[str, ...]
    ends: Ends
    flags: Callable[[Values], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Branch:
    """One of the weights that are added up: its `normalizer`, and of a softmax the name or value
    of its `coefficient`, its `sink`, and numbers `between` which every logit lies, as in
    `Pairwise`."""

    normalizer: str
    coefficient: str | float
    sink: str | None
    between: tuple[str | float, str | float] | None

    @property
    def softmax(self) -> bool:
        """Whether its rows are normalised."""
        return self.normalizer == "softmax"

    @property
    def of_row(self) -> tuple[str, ...]:
        """The operands that it has a number of for each row."""
        return tuple(x for x in (self.coefficient, self.sink) if isinstance(x, str))


@dataclass(frozen=True, eq=False)
class Pairwise:
    """A pairwise computation by names; equal to no other.

    `operands` are the tensors in the operation's order with their dimensions, `numbers` follow
    them. `form` is what it gives for a row: a "vector" (the weighted sum of `value`), a "number",
    the "map" of its weights, their sums for each of the "blocks" of columns, or for each of
    `entries` (their number or its name; a pair's is `indices(values)["out"]`), the "position" of
    the largest one, the "threshold" at which the shares of its pairs add up to 1, or the "cuts"
    around its largest (see `cpu_cuts`); of a softmax without a value nothing but the log-sum-exp.
    `masked`: some pairs are excluded; `loads` are what a forward and a backward tile hold, and
    `counts` all that the pass works out, see `tiles.Need`. `packs`: rows of several query heads may
    share a forward tile.
    `dots` are (tile, row operand, column operand).
    `tile(values, masked)` gives (keep or None, score), `slopes(values, masked)` gives (keep,
    score, gradients in the order of `wanted`), `search(values, masked)` (keep, share, (the slope by
    which that falls, the order of the entmax less 1)) at the numbers "threshold" of rows, or (keep,
    what is ranked, (how many are the largest,)),
    `indices(values)` the place where each table is read. `between` are numbers, or their names,
    between which every logit lies. `rows(values)` gives the `Limits` of the keys for queries at
    positions `lo` to `hi`; `patches` does so on a grid, where tiles are compact. `ranges` or
    `blocks` decide what is visited instead.
    `scans` are the running sums of a tile.
    Several weights are added up where there are `branches`: `tile` gives the score of each and
    `slopes` score and gradients of each, one after another, softmaxes first; `normalizer` is then
    "softmax" if all are normalised, and each has a `sink` and a `between` of its own.
    `native` is the same in C++, if `native.h` has all that it takes.
    """

    normalizer: str
    masked: bool
    loads: tuple[str, str]
    counts: str
    packs: bool
    operands: tuple[tuple[str, tuple[str, ...]], ...]
    numbers: tuple[str, ...]
    dots: tuple[tuple[str, str, str], ...]
    sums: tuple[ChannelSum, ...]
    form: str
    value: str | None
    gate: str | None
    sink: str | None
    leaves: tuple[Leaf, ...]
    entries: str | int | None
    wanted: tuple[str, ...]
    between: tuple[str | float, str | float] | None
    tile: Callable[[Values, bool], tuple[Any, ...]]
    slopes: Callable[[Values, bool], tuple[Any, ...]]
    indices: Callable[[Values], dict[str, Tensor]]
    rows: Callable[[Values], Limits]
    patches: Patches | None
    ranges: Ranges | None
    blocks: Blocks | None
    search: Slopes | None = None
    branches: tuple[Branch, ...] = ()
    scans: tuple[Scan, ...] = ()
    native: str = ""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The operands, in the operation's order."""
        return tuple(name for name, _ in self.operands)

    @property
    def blocked(self) -> bool:
        """Whether tiles have to hold whole blocks of `tiles.BLOCK` tokens."""
        return self.form == "blocks" or bool(self.scans)

    @property
    def lists(self) -> bool:
        """Whether values of tensors decide what is visited."""
        return self.ranges is not None or self.blocks is not None

    @cached_property
    def softmax(self) -> bool:
        """Whether rows of every weight are normalised."""
        return self.normalizer == "softmax"

    @cached_property
    def weights(self) -> tuple[Branch, ...]:
        """What is added up: one weight, unless there are `branches`."""
        return self.branches or (Branch(self.normalizer, 1.0, self.sink, self.between),)

    @cached_property
    def softmaxes(self) -> int:
        """How many of them are normalised."""
        return sum(weight.softmax for weight in self.weights)

    @cached_property
    def roles(self) -> dict[str, str]:
        """Whose numbers or vectors the operands are that take no part in a product."""
        vectors = (v for part in self.sums for v in part.vectors)
        return {x.operand: x.role for x in (*self.leaves, *vectors)}

    @cached_property
    def grads(self) -> tuple[str, ...]:
        """The operands whose gradient exists, in the operation's order."""
        apart = {n for n in (self.value, self.gate) if n is not None}
        apart |= {n for weight in self.weights for n in weight.of_row}
        if not (self.wanted or apart):
            return ()
        floats = apart | {n for dot, x, y in self.dots if dot in self.wanted for n in (x, y)}
        floats |= {leaf.operand for leaf in self.leaves if leaf.grad}
        floats |= {v.operand for part in self.sums for v in part.vectors if v.grad}
        return tuple(n for n in self.names if n in floats)

    @cached_property
    def _read(self) -> frozenset[str]:
        """The names of the values that decide what is visited."""
        found = self.blocks or self.ranges
        if found is None:
            return frozenset({leaf.name for leaf in self.leaves if leaf.role in ("head", "table")})
        names = (
            found.names if isinstance(found, Blocks) else (*found.row_names, *found.column_names)
        )
        return frozenset({*names, *(at for _, _, at in found.ends)})

    @cached_property
    def decisive(self) -> tuple[str, ...]:
        """The operands whose values decide what is visited."""
        return tuple(sorted({leaf.operand for leaf in self.leaves if leaf.name in self._read}))

    @cached_property
    def listed(self) -> tuple[str, ...]:
        """The numbers that decide what is visited."""
        return tuple(n for n in self.numbers if not self.lists or n in self._read)

    @cached_property
    def weighed(self) -> tuple[str, ...]:
        """The numbers that launches are laid out by: on a grid all, which its patches may read."""
        ends = [end for weight in self.weights for end in weight.between or ()]
        found = {self.entries, *ends} if self.patches is None else {*self.numbers, *STARTS}
        return tuple(n for n in (*self.numbers, *STARTS) if n in found)


class Problem(NamedTuple):
    """One call: tensors and numbers by name, sizes, and the first positions.

    Row operands are [B, H, M, ...], column operands [B, Hk, N, ...], per-head ones [B, H];
    tables, pair tensors, and whole numbers of rows and columns may have size 1 at b and h. B, H,
    Hk, M and N are `batch`, `heads`, `key_heads`, `rows` and `columns`.
    """

    plan: Pairwise
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float | int | bool]
    batch: int
    heads: int
    key_heads: int
    rows: int
    columns: int
    q_start: int
    k_start: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """From `batch` to `k_start`."""
        return self[3:]

    @property
    def every_number(self) -> dict[str, float | int | bool]:
        """The first positions among the numbers."""
        return {**self.numbers, "q_start": self.q_start, "k_start": self.k_start}

    @property
    def weighed(self) -> Kind:
        """The numbers that launches are laid out by."""
        names = self.plan.weighed
        if not names:
            return ()
        numbers = self.every_number
        return tuple([numbers[name] for name in names])

    @property
    def kind(self) -> Kind:
        """What calls share whose kernels are laid out alike: all but values of tensors, and of
        numbers that only kernels read."""
        found: list[object] = [self.device, *self[3:8], *self.weighed]
        for x in self.tensors.values():
            found += (x.shape, x.stride(), x.dtype)
        return tuple(found)

    @property
    def value(self) -> Tensor | None:
        """The value operand."""
        return None if self.plan.value is None else self.tensors[self.plan.value]

    @property
    def entries(self) -> int:
        """How many entries a row's weights are summed for."""
        found = self.plan.entries
        return int(self.numbers[found]) if isinstance(found, str) else found or 0

    @property
    def width(self) -> int:
        """How many numbers the forms "map", "entries" and "blocks" give for a row."""
        blocks = -(-self.columns // BLOCK)
        return {"map": self.columns, "blocks": blocks}.get(self.plan.form, self.entries)

    @property
    def device(self) -> torch.device:
        """Where the operands are."""
        return self._some.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the products' operands."""
        return self._some.dtype

    @property
    def _some(self) -> Tensor:
        """A tensor like the products' operands: one of them if there are any."""
        if self.plan.dots:
            return self.tensors[self.plan.dots[0][1]]
        if self.value is not None:
            return self.value
        floats = [x for x in self.tensors.values() if x.is_floating_point()]
        return [*floats, *self.tensors.values()][0]

    @property
    def groups(self) -> int:
        """Query heads to a key head."""
        return self.heads // max(self.key_heads, 1)

    @property
    def wide(self) -> torch.dtype:
        """The dtype of every sum."""
        return torch.float64 if self.dtype is torch.float64 else torch.float32


def problem(plan: Pairwise, args: Sequence[Any]) -> Problem:
    """The call with an operation's arguments: operands, numbers, sizes, first positions."""
    count = len(plan.operands)
    last = count + len(plan.numbers)
    tensors = dict(zip(plan.names, args, strict=False))
    numbers = dict(zip(plan.numbers, args[count:last], strict=True))
    return Problem(plan, tensors, numbers, *args[last:])


def kind_within(call: Problem, bound: Bound) -> Kind:
    """The `kind` of a pass that is part of a call: what is known of that tells how tensors are laid
    out that were given to it."""
    if bound.passed is None:
        return call.kind
    given = [*bound.tensors.values()]
    found: list[object] = [bound.passed, *call.weighed]
    for x in call.tensors.values():
        for place, argument in enumerate(given):
            if x is argument:
                found.append(place)
                break
        else:
            found += (x.shape, x.stride(), x.dtype)
    return tuple(found)
