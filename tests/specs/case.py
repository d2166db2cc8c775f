"""What a library test needs: random inputs, and attention spelled out row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

Argument: TypeAlias = "Tensor | int | float"


@dataclass(frozen=True)
class Draw:
    """Random float64 tensors, and the sizes of the case they are for."""

    generator: torch.Generator
    b: int
    h: int
    m: int
    n: int
    d: int
    e: int

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers between `low` and `high`."""
        unit = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return low + (high - low) * unit

    def ints(self, low: int, high: int, *shape: int) -> Tensor:
        """Integers from `low` up to, not including, `high`."""
        return torch.randint(low, high, shape, generator=self.generator)

    def flags(self, share: float, *shape: int) -> Tensor:
        """Bools of which about `share` are true."""
        return torch.rand(shape, generator=self.generator) < share


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Several tensors as one: the only one, or all their numbers in a row."""
    return parts[0] if len(parts) == 1 else torch.cat([part.flatten() for part in parts])


def nothing(draw: Draw) -> dict[str, Argument]:
    """No arguments beside the operands."""
    return {}


@dataclass(frozen=True)
class Case:
    """How to call a spec, and the formula it is held against.

    The formula gets the same arguments by name (a grid's sizes in lower case), keys and values
    already repeated for every query head. `extra` draws what the spec declares; `keys` names the
    key and value operands among it. `grid` are the sizes GY, GX, ... in the spec's order.
    `returned` names what the formula gives, in its order, where that is not the output alone:
    returned tensors, and the output itself as "output"; several of them are `joined`.
    """

    formula: Callable[..., Tensor]
    extra: Callable[[Draw], Mapping[str, Argument]] = nothing
    operands: str = "qkv"
    keys: tuple[str, ...] = ()
    m: int = 11
    n: int = 11
    d: int = 6
    e: int = 5
    b: int = 2
    h: int = 4
    kv_heads: int = 2
    grid: Mapping[str, int] = field(default_factory=dict)
    q_start: int = 0
    returned: tuple[str, ...] = ("output",)

    @property
    def extent(self) -> dict[str, int]:
        """What a call says beside the arguments: the grid's sizes, the first position."""
        return {**self.grid, **({"q_start": self.q_start} if self.q_start else {})}

    def sides(self, side: str) -> list[int]:
        """Sizes of the grid of the queries ("i") or of the keys ("j")."""
        return [size for name, size in self.grid.items() if name[2:] in ("", f"_{side}")]

    def draw(self, seed: int) -> dict[str, Argument]:
        """Operands and declared arguments; keys and values have `kv_heads` heads."""
        m, n = self.m, self.n
        if self.grid:
            m, n = (math.prod(self.sides(side)) for side in ("i", "j"))
        generator = torch.Generator().manual_seed(seed)
        draw = Draw(generator, self.b, self.h, m, n, self.d, self.e)
        shapes = {
            "q": (self.b, self.h, m, self.d),
            "k": (self.b, self.kv_heads, n, self.d),
            "v": (self.b, self.kv_heads, n, self.e),
        }
        operands = {name: draw.normal(*shapes[name]) for name in self.operands}
        return {**operands, **self.extra(draw)}

    def expected(
        self, arguments: Mapping[str, Argument], formula: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """What the case's formula (or another one) gives for arguments as `draw` gives them."""
        given = dict(arguments)
        for name in ("k", "v", *self.keys):
            tensor = given.get(name)
            if isinstance(tensor, Tensor):
                given[name] = tensor.repeat_interleave(self.h // tensor.shape[1], dim=1)
        sizes = {name.lower(): size for name, size in self.grid.items()}
        return (formula or self.formula)(**given, **sizes)


def fold(x: Tensor, axis: int, *sizes: int) -> Tensor:
    """Give one axis several: the inverse of `flatten`."""
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


# Attention, one row at a time


def dots(q: Tensor, k: Tensor) -> Tensor:
    """Inner products of all queries and keys, unscaled."""
    return torch.einsum("bhid,bhjd->bhij", q, k)


def scaled(q: Tensor, k: Tensor) -> Tensor:
    """Inner products over the root of the head dimension."""
    return dots(q, k) / math.sqrt(q.shape[-1])


def attend(score: Tensor, v: Tensor, keys_of: Callable[[int, int, int], Iterable[int]]) -> Tensor:
    """Softmax over the keys that `keys_of(b, h, i)` lists, times their values; 0 without keys."""
    return weights_over(score, keys_of) @ v


def weights_over(score: Tensor, keys_of: Callable[[int, int, int], Iterable[int]]) -> Tensor:
    """Softmax over the keys that `keys_of(b, h, i)` lists; zero elsewhere, and without keys."""
    allowed = listed(score, keys_of)
    some = allowed.any(-1, keepdim=True)
    logits = score.masked_fill(~allowed, -math.inf).masked_fill(~some, 0)
    return torch.softmax(logits, dim=-1).masked_fill(~allowed, 0)


def listed(score: Tensor, keys_of: Callable[[int, int, int], Iterable[int]]) -> Tensor:
    """A bool for each element of `score`: does `keys_of(b, h, i)` list the key?"""
    batch, heads, m, _ = score.shape
    allowed = torch.zeros(score.shape, dtype=torch.bool)
    for b in range(batch):
        for h in range(heads):
            for i in range(m):
                allowed[b, h, i, list(keys_of(b, h, i))] = True
    return allowed


def attend_all(score: Tensor, v: Tensor) -> Tensor:
    """Softmax over every key, times the values."""
    return torch.softmax(score, dim=-1) @ v


def attend_causal(score: Tensor, v: Tensor) -> Tensor:
    """Softmax over the keys up to each query, times their values."""
    return attend(score, v, lambda b, h, i: range(i + 1))


def each_pair(m: int, n: int, rule: Callable[[int, int], float]) -> Tensor:
    """The matrix of rule(i, j)."""
    rows = [[float(rule(i, j)) for j in range(n)] for i in range(m)]
    return torch.tensor(rows, dtype=torch.float64)
