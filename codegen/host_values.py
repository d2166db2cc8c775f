"""Values that a host's statements name, and their dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from attnspec.dsl.ast import Kind, Role

TOKENS = {Role.QUERY, Role.KEY, Role.TIME, Role.ALIAS}
# position of the first of a side's rows, as code
STARTS = {"i": "bound.q_start", "j": "bound.k_start", "t": "bound.k_start"}
DTYPES = {Kind.INT: "torch.int64", Kind.BOOL: "torch.bool", Kind.FLOAT: "wide"}
Dims: TypeAlias = "tuple[str, ...]"


@dataclass(frozen=True, slots=True)
class Value:
    """What a printed name holds. `plain`: a Python number; `grouped`: `h` counts key heads;
    `narrow`: in the dtype that the call gave it."""

    code: str
    dims: Dims
    kind: Kind
    plain: bool = False
    grouped: str = ""
    narrow: bool = False
