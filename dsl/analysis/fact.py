"""One thing that is proved of a spec."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is known of a spec: its value, why it holds, and what it buys."""

    name: str
    value: str
    why: str
    buys: str
