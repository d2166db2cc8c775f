"""Where an expression stands: what is bound there, and what its names mean."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnspec.dsl import syntax as s
from attnspec.dsl.ast import Expr


@dataclass(frozen=True, eq=False, slots=True)
class Thunk:
    """A function's argument: an expression and the arguments that its own names may mean."""

    node: s.Expr
    args: tuple[tuple[str, Thunk], ...]
    masked: bool


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an expression stands.

    `bound` are the index variables bound there (`b` and `h` always are), `soft` those of them that
    are channels written in the head of the definition (a product may still contract one, if it
    finds no unbound channel to contract), `masked` whether reductions run over the mask's pairs,
    `step` the state whose own step this is, `n` the variable that the author's `n` means and
    `owner` the definition that binds it.
    """

    bound: frozenset[str] = frozenset()
    soft: frozenset[str] = frozenset()
    masked: bool = True
    args: tuple[tuple[str, Thunk], ...] = ()
    step: str | None = None
    n: str = "n"
    owner: str | None = None

    def bind(self, *axes: str) -> Scope:
        """This scope with further index variables bound."""
        return replace(self, bound=self.bound | set(axes), soft=self.soft - set(axes))

    def binds(self, axis: str) -> bool:
        """Whether `axis` is bound here."""
        return axis in self.bound or axis in ("b", "h")


@dataclass(frozen=True, slots=True)
class Seen:
    """A read of a tensor at a token axis, for deciding on which side its tokens lie."""

    name: str
    axis: str
    written: str
    index: Expr
    owner: str | None
