"""Rows of one tile that belong to several query heads of one key head, so that keys and values are
read once for all of them.

`packed` heads stand side by side for every token: row r of a tile of `rows` is the token
r // packed of its head r % packed. Rows over that fill no token are past the last one. With one
head everything is as in a tile of one head.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from attnspec.runtime.triton_tiles import load_tile, load_tokens, store_tile, store_tokens


@triton.jit
def heads_of(first, rows: tl.constexpr, packed: tl.constexpr):
    """The head of every row, the first being `first`: one number for one head."""
    if packed > 1:
        first = first + tl.arange(0, rows) % packed
    return first


@triton.jit
def tokens_of(block, length, rows: tl.constexpr, packed: tl.constexpr):
    """The token of every row of the tile `block`."""
    if packed == 1:
        token = block * rows + tl.arange(0, rows)
    else:
        place = tl.arange(0, rows) // packed
        token = block * (rows // packed) + place
        if rows % packed > 0:
            token = tl.where(place < rows // packed, token, length)
    return token


@triton.jit
def upright(x, packed: tl.constexpr):
    """Numbers of rows as a column beside a tile."""
    if packed > 1:
        x = x[:, None]
    return x


@triton.jit
def lying(x, rows: tl.constexpr, packed: tl.constexpr):
    """The reverse: a number of each head [rows, 1] as [rows]."""
    if packed > 1:
        x = tl.sum(x + tl.zeros([rows, 1], dtype=tl.float32), 1)
    return x


@triton.jit
def load_rows(
    at, row, start, length, s_token, s_channel,
    rows: tl.constexpr, channels: tl.constexpr, width: tl.constexpr, packed: tl.constexpr,
):  # fmt: skip
    """The tokens `row` of each row's head as a tile [rows, width]; of one head, those from `start`
    on. `at` as in `load_tile`, of each row."""
    if packed == 1:
        tile = load_tile(at, start, length, s_token, s_channel, rows, channels, width)
    else:
        tile = load_tokens(at[0][:, None], row, length, s_token, s_channel, channels, width)
    return tile


@triton.jit
def store_rows(
    base, tile, row, start, length, channels: tl.constexpr, packed: tl.constexpr
):  # fmt: skip
    """Write a tile where `load_rows` would read it in contiguous tensors."""
    if packed == 1:
        store_tile(base, tile, start, length, channels)
    else:
        store_tokens(base[:, None], tile, row, length, channels)
