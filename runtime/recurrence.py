"""Recurrences: all states of one time axis and direction advance together, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnspec.dsl import ast

if TYPE_CHECKING:
    from attnspec.runtime.reference import Evaluator


class Histories:
    """The values of every state at every step, computed when first asked for."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._spec = evaluator.spec
        self._done: dict[str, Tensor] = {}
        self._past: dict[str, dict[int, Tensor]] = {}
        self._under = _states_under(evaluator.spec) if evaluator.spec.states else {}

    def advancing(self, name: str) -> bool:
        """Whether the recurrence of this state is under way."""
        return name in self._past

    def pending(self, name: str) -> bool:
        """Whether a definition uses a state whose recurrence is under way."""
        return bool(self._past) and not self._under[name].isdisjoint(self._past)

    def history(self, name: str) -> Tensor:
        """[b, h, steps + 1, its axes]: the initial value is first, or last in reverse."""
        if name not in self._done:
            self._advance(name)
        return self._done[name]

    def new(self, name: str) -> Tensor:
        """[b, h, steps, its axes]: the values after each step."""
        history = self.history(name)
        state = self._spec.state(name)
        assert state is not None
        return history.narrow(2, 0 if state.reverse else 1, history.shape[2] - 1)

    def at(self, name: str, position: int) -> Tensor:
        """[b, h, its axes] at one step of a recurrence under way; it may be the present one."""
        past = self._past[name]
        if position not in past:
            state = self._spec.state(name)
            assert state is not None
            past[position] = self._value(state, state.step, position)
        return past[position]

    def _advance(self, name: str) -> None:
        state = self._spec.state(name)
        assert state is not None
        time, reverse = state.time, state.reverse
        together = [s for s in self._spec.states if (s.time, s.reverse) == (time, reverse)]
        first = self._evaluator.start(time)
        steps = range(first, first + self._evaluator.sizes[time])
        for s in together:
            value = self._value(s, s.init, None)
            self._past[s.name] = {steps.stop if reverse else first - 1: value}
        for position in reversed(steps) if reverse else steps:
            for s in together:
                self.at(s.name, position)
            self._evaluator.forget()
        for s in together:
            past = self._past.pop(s.name)
            self._done[s.name] = torch.stack([past[p] for p in sorted(past)], 2)

    def _value(self, state: ast.State, expr: ast.Expr, position: int | None) -> Tensor:
        at = {} if position is None else {state.time: position}
        value = self._evaluator.full(expr, [a for a in state.axes if a != state.time], at)
        widens = state.kind is ast.Kind.FLOAT and not value.is_floating_point()
        return value.to(self._evaluator.dtype) if widens else value


def _states_under(spec: ast.Spec) -> dict[str, frozenset[str]]:
    """The states that each definition reads, directly or through others."""
    under: dict[str, frozenset[str]] = {}
    for definition in spec.defs:  # each stands after those it reads
        found: set[str] = set()
        for node in ast.walk(definition.expr):
            if isinstance(node, ast.Read):
                if spec.state(node.name) is not None:
                    found.add(node.name)
                found |= under.get(node.name, frozenset())
        under[definition.name] = frozenset(found)
    return under
