"""How a script of checks ends that runs in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable


def status(problems: Iterable[str]) -> int:
    """Say the first thing that is wrong: 1, or 0 where nothing is."""
    for wrong in problems:
        print(wrong)
        return 1
    return 0
