"""Operations that Python's operators are, on numbers and on tensors alike."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from attnspec.dsl.ast import COMPARISONS

CALCULATING: Mapping[str, Callable[..., Any]] = {
    "neg": operator.neg,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "pow": operator.pow,
}
OPERATORS = {**CALCULATING, **{name: getattr(operator, name) for name in COMPARISONS}}
