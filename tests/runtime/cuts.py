"""The largest of every row in kernels, under Triton's interpreter:

TRITON_INTERPRET=1 python -m tests.runtime.cuts
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import torch
from tests.runtime.script import status
from torch import Tensor

import attnspec

ROWS, COLUMNS = 9, 40
TEXT = """input given[i, j]{kind}
input most{each}: int
output = none
return chosen[b, h, i, j] = where(topk(j, given, most, where={where}), 1.0, 0.0)"""


def allowed(rows: Tensor, columns: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Conditions, and where they hold."""
    yield "i >= 0", (rows >= 0).expand(ROWS, COLUMNS)
    yield "j <= i", columns <= rows
    yield "(i + j) % 3 > 0", (rows + columns) % 3 > 0


def wanted(scores: Tensor, some: Tensor, most: Tensor) -> Tensor:
    """Which are the `most` first of a stable sort."""
    found = torch.zeros_like(some)
    for row, (values, taken) in enumerate(zip(scores, some, strict=True)):
        order = [int(j) for j in values.sort(descending=True, stable=True).indices if taken[j]]
        found[row, order[: max(int(most[row]), 0)]] = True
    return found


def inputs() -> Iterator[tuple[str, Tensor]]:
    """Scores with few and with many equal ones, and with what is no number or not finite."""
    draw = torch.Generator().manual_seed(3)
    shape = (ROWS, COLUMNS)
    yield "normal", torch.randn(shape, generator=draw)
    yield "close", 1 + torch.randint(0, 40, shape, generator=draw) * 2.0**-23
    yield "few", torch.randint(-1, 2, shape, generator=draw).float()
    yield "one", torch.zeros(shape)
    odd = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0, 1e-42, 3e38, -3e38])
    odds = odd[torch.randint(0, 8, shape, generator=draw)]
    odds[:, 0] = math.nan  # the largest of all, where nothing is wanted, too
    yield "odd", odds
    yield "integers", torch.randint(-5, 6, shape, generator=draw) * 2**40 + 2**30


def problems() -> Iterator[str]:
    """Where a map of what is chosen differs."""
    i, j = torch.arange(ROWS)[:, None] + 4, torch.arange(COLUMNS) + 2
    for place, (name, given) in enumerate(inputs()):
        whole = not given.is_floating_point()
        for where, some in allowed(i, j):
            rows = (torch.arange(ROWS) * 7 + place) % 75 - 2
            for each, most in (("", 9), ("[i]", rows)):
                text = TEXT.format(each=each, where=where, kind=": int" if whole else "")
                attention = attnspec.compile(f"attention a\n{text}")
                _, extras = attention(given=given, most=most, q_start=4, k_start=2, extras=True)
                number = torch.as_tensor(most).expand(ROWS)
                want = wanted(given, some, number)
                if not torch.equal(extras["chosen"][0, 0] > 0, want):
                    yield f"{name} where {where}, {each or most}"


if __name__ == "__main__":
    sys.exit(status(problems()))
