"""Few queries, whose keys several programs share, in kernels under Triton's interpreter:

TRITON_INTERPRET=1 python -m tests.runtime.few
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from tests.runtime.script import status
from torch import Tensor

import attnspec
from attnspec.runtime import launch
from attnspec.runtime.typical import typical

# a mask that leaves parts without a pair, a sink, lists, a gate, no softmax, a fixed maximum
SPECS = ("full", "causal", "sliding_window", "sink_window", "documents", "gated_elementwise",
         "sigmoid", "softcap")  # fmt: skip
KEYS = 150  # five tiles among three programs


def problems() -> Iterator[str]:
    """What differs from the reference, output or a gradient."""
    shared: list[int] = []
    plain = launch._parts

    def noted(call: Any, tile: Any) -> int:
        shared.append(plain(call, tile))
        return shared[-1]

    launch._parts = noted
    for name in SPECS:
        f = attnspec.load(name)
        for rows in (1, 5):
            given = typical(f.spec, batch=2, heads=4, length=KEYS, channels=8)
            for key, x in given.items():
                if isinstance(x, Tensor) and key in ("q", "g", "doc_i"):
                    given[key] = x[:, :, :rows] if x.dim() > 2 else x[:, :rows]
            floats = [x.requires_grad_() for x in given.values() if is_float(x)]
            start = KEYS - rows - 7
            out, extras = f(**given, q_start=start, extras=True)
            want, wide = f.reference(**given, q_start=start, extras=True)
            pairs = [(out, want), *((extras[n], wide[n]) for n in extras if n in wide)]
            up = torch.linspace(-1, 1, out.numel()).view(out.shape)
            grads = (
                torch.autograd.grad(x, floats, up.to(x), allow_unused=True) for x in (out, want)
            )
            pairs += zip(*grads, strict=True)
            for x, y in pairs:
                if x is not None and not torch.allclose(x.double(), y.double(), 1e-4, 1e-5):
                    yield f"{name}, {rows} rows"
    if set(shared) != {3}:
        yield f"programs that shared keys: {set(shared)}"


def is_float(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


if __name__ == "__main__":
    sys.exit(status(problems()))
