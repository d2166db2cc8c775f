"""What a call of a spec takes, as data: a generated module prints it as a literal.

Nothing of the language is imported here, so that a machine which only runs generated kernels
needs none of it; `attnspec.runtime.signature_of` makes a signature from a checked spec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

# A size: a number, the name of another size ("i" is M, "j" N, "h" H, "i.y" a side of a grid), or
# (operation, size, ...). The operations are those of `attnspec.runtime.extents`.
Extent: TypeAlias = "int | str | tuple[Extent, ...]"

# A default that is known without evaluating anything: a number, or a nested list of numbers.
Default: TypeAlias = "bool | int | float | tuple[Default, ...]"

LABELS = {"b": "B", "h": "H", "i": "M", "j": "N", "d": "D", "e": "E"}
STARTS = {"i": "q_start", "j": "k_start"}  # by side, what a call names its first position


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a call.

    `form` is query, key, value, input or param; `kind` is float, int or bool. `axes` name sizes:
    an alias stands as its base and `t` as `j`. An input without axes is a number, a param
    without axes a tensor of rank 0. `paired`: may be given as (for queries, for keys).
    `computed`: left out, its value is an expression that the caller of `bind` evaluates.
    """

    name: str
    form: str
    axes: tuple[str, ...]
    kind: str
    default: Default | None = None
    computed: bool = False
    paired: bool = False

    @property
    def required(self) -> bool:
        """Whether every call must give it."""
        return self.default is None and not self.computed

    @property
    def scalar(self) -> bool:
        """Whether the call gives a number and no tensor."""
        return self.form == "input" and not self.axes

    @property
    def operand(self) -> bool:
        """Whether it is [B, heads, tokens, channel] and may have fewer heads than queries."""
        return self.form in ("key", "value")

    @property
    def token(self) -> int | None:
        """Place of its token axis, if it has one."""
        return next((n for n, axis in enumerate(self.axes) if axis in ("i", "j")), None)


@dataclass(frozen=True, slots=True)
class Grid:
    """The token grid of a side ("i" or "j"); `sizes` are the keywords of its sides, slowest first.

    A grid that both sides share stands once, with side "i".
    """

    side: str
    names: tuple[str, ...]
    sizes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """The arguments of a spec in call order and what must hold between their sizes.

    `sizes` are the axes whose size is not an input's alone, each after those it uses.
    `tables` are (constant, its axes, its shape). `equal` are pairs of axes of one size. `square`:
    a recurrence over tokens, so M = N and queries and keys start together. `across` are
    (name, its side, the side it is read at): the positions of the second lie among the first.
    `anchored` are (text, side): what is shown to be right where positions of the side start at 0.
    """

    name: str
    arguments: tuple[Argument, ...]
    sizes: tuple[tuple[str, Extent], ...] = ()
    tables: tuple[tuple[str, tuple[str, ...], tuple[int, ...]], ...] = ()
    grids: tuple[Grid, ...] = ()
    shared_grid: bool = False
    equal: tuple[tuple[str, str], ...] = ()
    square: bool = False
    across: tuple[tuple[str, str, str], ...] = ()
    anchored: tuple[tuple[str, str], ...] = ()
    output: bool = True
    returns: tuple[str, ...] = ()

    def argument(self, name: str) -> Argument:
        """The argument called `name`; KeyError when there is none."""
        for argument in self.arguments:
            if argument.name == name:
                return argument
        raise KeyError(name)
