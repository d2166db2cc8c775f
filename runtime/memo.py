"""Dictionaries that forget."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(dict[K, V]):
    """What was worked out before, by what decides it: at most so many, and one more starts anew."""

    def __init__(self, most: int = 256) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: K, value: V) -> None:
        if key not in self and len(self) >= self.most:
            self.clear()
        super().__setitem__(key, value)
