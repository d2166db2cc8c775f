"""Several programs that share the keys of a tile of rows, and the merge of what they give."""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def first_of(count, parts: tl.constexpr):
    """Where the own part of a loop over `count` begins."""
    if parts == 1:
        begin = 0
    else:
        begin = (count * tl.program_id(1)) // parts
    return begin


@triton.jit
def last_of(count, parts: tl.constexpr):
    """Where it ends."""
    if parts == 1:
        end = count
    else:
        end = (count * (tl.program_id(1) + 1)) // parts
    return end


@triton.jit
def rows_before(blocks, rows, parts: tl.constexpr):
    """The rows of all heads' outputs over the parts before the own one."""
    if parts == 1:
        before = 0
    else:
        before = tl.program_id(1).to(tl.int64) * (tl.num_programs(0) // blocks) * rows
    return before


@triton.jit
def merge(
    p_parts,
    p_lses,
    p_out,
    p_lse,
    rows,
    C: tl.constexpr,  # noqa: N803
    W: tl.constexpr,  # noqa: N803
    PARTS: tl.constexpr,  # noqa: N803
    SOFTMAX: tl.constexpr,  # noqa: N803
):
    """The output [rows, C] and log-sum-exp [rows] of a softmax over all keys from those over parts
    of them, [PARTS, rows, C] and [PARTS, rows]; without a softmax the sum. A row a program."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, W)
    total = tl.zeros([W], dtype=tl.float32)
    top = tl.full([], float("-inf"), dtype=tl.float32)
    whole = tl.zeros([], dtype=tl.float32)
    if SOFTMAX:
        for part in range(PARTS):
            top = tl.maximum(top, tl.load(p_lses + part * rows + row), tl.PropagateNan.ALL)
    safe = tl.where(top == float("-inf"), 0.0, top)
    for part in range(PARTS):
        at = p_parts + (part * rows + row) * C + channel
        values = tl.load(at, mask=channel < C, other=0.0)
        if SOFTMAX:
            weight = tl.exp(tl.load(p_lses + part * rows + row) - safe)
            whole += weight
            # a part without a pair says nothing
            total += tl.where(weight == 0.0, 0.0, weight * values)
        else:
            total += values
    if SOFTMAX:
        total = total / tl.where(whole == 0.0, 1.0, whole)
        tl.store(p_lse + row, top + tl.log(tl.where(whole == 0.0, 1.0, whole)))
    tl.store(p_out + row * C + channel, total.to(p_out.dtype.element_ty), mask=channel < C)
