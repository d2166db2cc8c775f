"""Kernels whose every tensor lies against a protected page: what reads or writes outside ends.

    TRITON_INTERPRET=1 python -m tests.runtime.fence behind

runs specs forward and backward through the interpreter, the protected page `behind` or `before`
each tensor. With `touch` it reads one byte too far on purpose.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import attnspec
from attnspec.runtime import blocks, launch
from attnspec.runtime.arrange import Layout
from attnspec.runtime.problem import Problem
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

SPECS = {
    "causal": "mask j <= i and j % 7 != 3",
    "window": """
input w: int = 9
param near[h, 7] = 0.1
mask i - w < j <= i and i - j < 7
score = 20 * tanh(dot(q[i], k[j]) / 20) + near[i - j]""",
    "leaves": """
input r[b, i]
input c[b, j]
input doc[b, n]: int
param s[h] = 0.4
mask doc[i] <= doc[j]
score = dot(q[i], k[j]) * r[i] * s + c[j] - s * abs(i - j)""",
    "holes": """
param bias[h, i, j] = 0
input keep[b, i, j]: bool
mask keep[i, j] and i % 4 != 1 and (j - i) // 3 % 4 != 1
score = dot(q[i], k[j]) + bias[i, j]""",
    "packed": """
input doc[b, n]: int where doc[n - 1, pad=0] <= doc[n]
mask doc[i] == doc[j] and j <= i + 3""",
    "sink": """
param s[h] = 0.4
axis p = 7
param rest[p] = 0.1
input g[b, h, i, e]
mask j <= i and i % 5 != 3
score = dot(q[i], k[j]) * s
weight = softmax(score, sink=where(i % 5 < 3, s, logsumexp(p, rest[p], where=p >= i)))
gate = sigmoid(g[i])""",
    "tables": """
param near[h, 5, d] = 0.1
param far[9, d] = 0.1
param once[h, 160, d] = 0.1
require i < 80
require j < 80
let relative = dot(q[i], near[clamp(i - j, -2, 2) + 2] + once[i + j])
let backward = dot(k[j], far[clamp(j - i + 1, 0, 8)] - once[i + j])
score = dot(q[i], k[j]) + relative + backward + dot(k[j], far[(j - i) % 9])
weight = sigmoid(score)""",
    "sizes": """
param near[h, 5, d] = 0.1
score = dot(q[i], k[j] + near[(i + j) % 5]) + dot(k[j], near[abs(i - j) % 5])
weight = score / N""",
    "weights": "input r[b, i]\nmask j > i - 5\nweight = relu(score) ** 2 / N\ngate = r[i]",
    "functions": """
input c[b, j]
param s[h] = 0.4
score = atan(dot(q[i], k[j]) + c[j]) + softplus(dot(q[i], k[j])) - log1p(dot(q[i], k[j]) ** 2)
weight = (score + 2 * s) / N""",
    "entries": """
param rows[h, 5, e] = 0.1
param once[160, e] = 0.1
require i < 80
require j < 80
axis l = 3
mask j != i + 2
value = v[j] + rows[clamp(i - j, -2, 2) + 2] - once[i + j] * rows[0]
weight = sigmoid(score) / N
return share[b, h, i, l] = sum(j, weight, where=clamp(j - i, -1, 4) == l)
return near[b, h, j, l] = sum(i, weight, where=abs(i - j) == l)""",
    "sparse": """
param a[h] = 0
mask i - 9 < j <= i
weight = entmax(score, alpha=1.1 + sigmoid(a)) + 0.5 * sparsemax(score)""",
    "several": """
query q2[d]
key k2[d]
param s[h] = 0.4
input r[b, h, i]
mask j <= i and i % 5 != 3
score = dot(q[i], k[j]) - s * (i - j)
let other = softmax(dot(q2[i], k2[j]) + 0.2 * score, sink=s)
weight = r[i] * softmax(score) - other + s * tanh(score) / N
gate = sigmoid(r[i])""",
    "running": """
index u = j
index w = i
param s[h] = 0.4
input c[b, j]
mask j <= i - 9 and i % 5 != 3
let p[i, j] = sigmoid(s * score + c[j])
let seen[i, j] = sum(w, p[w, j], where=w <= i)
weight = p[i, j] * prod(u, 1 - p[i, u], where=j < u) / (1 + seen ** 2)""",
    "largest": """
mask j < i - 4
output = none
return top[b, h, i] = amax(j, dot(q[i], k[j]))
return at[b, h, i] = argmax(j, sign(dot(q[i], k[j])))""",
}
SIZES = ("b", "h", "heads", "i", "j", "d", "e")
CASES = [
    Case(tuple(zip(SIZES, sizes, strict=True)), start, 3, "float32", layout, fill, 5)
    for sizes, start, layout, fill in (
        ((2, 2, 1, 33, 40, 3, 5), 4, "strided", "normal"),
        ((1, 2, 1, 70, 70, 17, 1), 3, "contiguous", "unseen_nan"),
    )
]

_LIBC = ctypes.CDLL(None, use_errno=True)
_KEPT: list[mmap.mmap] = []  # memory lives as long as the process


def fenced(x: Tensor, behind: bool) -> Tensor:
    """A copy of x in x's strides that ends at a protected page, or starts behind one."""
    if not x.numel():
        return x
    count = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    size, page = count * x.element_size(), mmap.PAGESIZE
    room = -(-size // page) * page
    memory = mmap.mmap(-1, room + 2 * page)
    _KEPT.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for guard in (start, start + page + room):
        if _LIBC.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = page + (room - size if behind else 0)
    flat = torch.frombuffer(memory, dtype=x.dtype, count=count, offset=offset)
    flat.copy_(x.detach().as_strided((count,), (1,)))
    return flat.as_strided(x.shape, x.stride())


def fence_launches(behind: bool) -> None:
    """Lay every tensor of every kernel against protected pages."""
    plain, visits = launch.launch, blocks.visits

    def fenced_visits(*args: Any) -> dict[str, Tensor]:
        return {n: fenced(x, behind) for n, x in visits(*args).items()}

    def fence(
        call: Problem, kernel: Any, how: Layout, pointers: Mapping[str, Tensor | None]
    ) -> None:
        tensors = {n: fenced(x, behind) for n, x in call.tensors.items()}
        given = {n: x for n, x in pointers.items() if x is not None}
        inside = {n: fenced(x, behind) for n, x in given.items()}
        plain(call._replace(tensors=tensors), kernel, how, {**pointers, **inside})
        for n, x in given.items():
            x.copy_(inside[n])

    launch.launch = fence
    vars(blocks)["visits"] = fenced_visits


def main(how: str) -> int:
    """Run every spec; exit 1 at the first wrong result."""
    if how == "touch":
        ctypes.string_at(fenced(torch.zeros(5), behind=True).data_ptr(), 21)
        return 1
    fence_launches(how == "behind")
    for name, text in SPECS.items():
        attention = attnspec.compile(f"attention a\n{text}")
        for case in CASES:
            print(f"{name}: {case}", file=sys.stderr, flush=True)
            outcome = hold(attention, case, "triton")
            if outcome.problems:
                print("\n".join(outcome.problems))
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
