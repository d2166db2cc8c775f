"""What kernels compute of tokens' coordinates on grids, under Triton's interpreter:

TRITON_INTERPRET=1 python -m tests.runtime.coordinates
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

import attnspec
from attnspec.runtime.api import Attention

# Specs, with the sides of their grids, and how many queries and keys there are.
SPECS: dict[str, tuple[str, dict[str, int], int, int]] = {
    "window": (
        """grid y, x
param a[h] = 0.5
mask abs(i.y - j.y) <= 3 and abs(i.x - j.x) <= 2
score = dot(q[i], k[j]) + a * (i.y - j.x) * (i.x + j.y) - a * i * j / 400""",
        {"GY": 9, "GX": 5},
        45,
        45,
    ),
    "border": (  # next to which the score is no number
        """grid y, x
param a[h] = 0.5
mask abs(i.x - j.x) <= 3
score = dot(q[i], k[j]) + a * j.x / (GY - i.y)""",
        {"GY": 9, "GX": 4},
        36,
        36,
    ),
    "steps": (
        """grid y, x
param a[h] = 0.5
mask i.y % 2 == j.y % 2 and abs(i.y // 2 - j.y // 2) <= 1
mask i.x % 3 == j.x % 3 and i.x // 3 >= j.x // 3
score = dot(q[i], k[j]) + a * (i.y - j.x) * (i.y % 2 + j.x % 3) / (1 + i.x // 3 + j.y // 2)""",
        {"GY": 5, "GX": 8},
        40,
        40,
    ),
    "axes": (
        """grid f, y, x
param a[h] = 0.5
mask j.f <= i.f and abs(i.y - j.y) <= 2 and abs(i.x - j.x) <= 1
score = dot(q[i], k[j]) + a * (i.f - j.y) * (j.f + i.x - i.y) / (GF + j.x)""",
        {"GF": 3, "GY": 4, "GX": 5},
        60,
        60,
    ),
    "sides": (
        """grid i: y, x
grid j: y, x
param a[h] = 0.5
mask abs(2 * i.y - j.y) <= 3 and abs(2 * i.x - j.x) <= 2
score = dot(q[i], k[j]) + a * (i.y - j.x) * (i.x + j.y)""",
        {"GY_i": 3, "GX_i": 5, "GY_j": 5, "GX_j": 9},
        15,
        45,
    ),
    "positions": (
        """param a[h] = 0.5
mask i % 3 == j % 3 and abs(i // 3 - j // 3) <= 4
score = dot(q[i], k[j]) + a * (i // 3 - j // 3 + i % 3) * i / (N + j)""",
        {},
        40,
        40,
    ),
}
STARTS = ((0, 0), (3, 0), (0, 2), (4, 3))  # of tensors that hold a part of plain positions


def results(call: Any, given: dict[str, Tensor], rest: dict[str, int]) -> list[Tensor]:
    """The output, and the gradients of what is given."""
    leaves = {name: x.clone().requires_grad_() for name, x in given.items()}
    out = call(**leaves, **rest)
    return [out, *torch.autograd.grad(out.square().sum(), list(leaves.values()))]


def wrong(attention: Attention, given: dict[str, Tensor], rest: dict[str, int]) -> list[str]:
    """What is not as the reference has it."""
    got = results(lambda **x: attention(**x, backend="triton"), given, rest)
    want = results(attention.reference, {name: x.double() for name, x in given.items()}, rest)
    return [
        f"{attention.spec.name} {rest}: {name}"
        for name, x, y in zip(("output", *given), got, want, strict=True)
        if not torch.allclose(x.double(), y, rtol=1e-3, atol=1e-3)
    ]


def main() -> int:
    """Exit 1 if anything is wrong."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for name, (text, grid, rows, columns) in SPECS.items():
        attention = attnspec.compile(f"attention {name}\n{text}\n")
        assert all(part.patches is not None for part in attention.plan.passes), name
        counts = {"q": rows, "k": columns, "v": columns}
        given = {n: torch.randn(1, 2, count, 4, generator=generator) for n, count in counts.items()}
        given["a"] = torch.tensor([0.5, 0.25])
        for q_start, k_start in STARTS[:1] if grid else STARTS:
            found += wrong(attention, given, {**grid, "q_start": q_start, "k_start": k_start})
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
