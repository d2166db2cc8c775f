"""How generated kernels read, multiply and write tiles; correct under the interpreter too.

The interpreter multiplies bfloat16 bit patterns in `tl.dot`: there, products are of float32.
Offsets of tokens are int64: two to the 31 elements can be passed.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def load_tile(
    at,
    start,
    length,
    s_token,
    s_channel,
    tokens: tl.constexpr,
    channels: tl.constexpr,
    width: tl.constexpr,
):
    """Tokens from `start` on as a tile [tokens, width], 0 past `length` and past `channels`; a
    `length` of None: all tokens are there.

    `at` is where token 0 lies, the tensor's descriptor or None, batch and head. A descriptor loads
    tiles of its own shape, past its tensor's end 0; pieces of a tile are loaded by pointers.
    """
    base, descriptor, b, h = at
    if descriptor is not None and descriptor.block_shape[2] == tokens:
        first = (start + tl.full([], 0, dtype=tl.int64)).to(tl.int32)
        tile = descriptor.load([b.to(tl.int32), h.to(tl.int32), first, 0])
        tile = tile.reshape([tokens, width])
    else:
        tile = _load_by_pointers(base, start, length, s_token, s_channel, tokens, channels, width)
    return tile


@triton.jit
def _load_by_pointers(
    base,
    start,
    length,
    s_token,
    s_channel,
    tokens: tl.constexpr,
    channels: tl.constexpr,
    width: tl.constexpr,
):
    """`load_tile` without a descriptor."""
    token, channel = tl.arange(0, tokens), tl.arange(0, width)
    at = base + (start + tl.full([], 0, dtype=tl.int64)) * s_token
    at = at + (token[:, None] * s_token + channel[None, :] * s_channel)
    if length is None:
        if channels == width:
            tile = tl.load(at)
        else:
            tile = tl.load(at, mask=(channel < channels)[None, :], other=0)
    else:
        some = (start + token < length)[:, None]
        if channels < width:
            some = some & (channel < channels)[None, :]
        tile = tl.load(at, mask=some, other=0)
    return tile


@triton.jit
def load_tokens(
    base, token, length, s_token, s_channel, channels: tl.constexpr, width: tl.constexpr
):
    """The tokens `token` as a tile [tokens, width], 0 where that is `length` or more."""
    channel = tl.arange(0, width)
    at = base + token.to(tl.int64)[:, None] * s_token + channel[None, :] * s_channel
    some = (channel < channels)[None, :]
    if length is not None:
        some = some & (token < length)[:, None]
    return tl.load(at, mask=some, other=0)


@triton.jit
def point_side(base, place, length, stride):
    """Where what belongs to the tokens `place` begins; a `length` of None: all are there."""
    if length is not None:
        place = tl.minimum(place, length - 1)
    return base + place.to(tl.int64) * stride


@triton.jit
def load_side(base, place, length, stride):
    """Numbers [tokens] at `place`; a `length` of None: all tokens are there.

    Past `length` stands the last one: a number that is not there must lie in the domain of what
    is computed of it, since a tile without holes adds up its rows' shares, each times 0.
    """
    return tl.load(point_side(base, place, length, stride))


@triton.jit
def load_channel(base, channel, place, length, s_channel, s_token):
    """One channel of the tokens at `place`, [tokens]; `length` as above."""
    base += (channel + tl.full([], 0, dtype=tl.int64)) * s_channel
    return load_side(base, place, length, s_token)


@triton.jit
def load_pairs(base, row, column, rows, columns, s_row, s_column):
    """A tile of a pair tensor at [row, column]; outside stands what is nearest, as above."""
    row, column = tl.minimum(row, rows - 1), tl.minimum(column, columns - 1)
    return each(base + row.to(tl.int64) * s_row + column.to(tl.int64) * s_column)


@triton.jit
def store_pairs(base, tile, row, column, rows, columns):
    """Write a tile to [row, column] of a contiguous [rows, columns]."""
    at = base + row.to(tl.int64) * columns + column
    tl.store(at, tile, mask=(row < rows) & (column < columns))


@triton.jit
def store_tile(base, tile, start, length, channels: tl.constexpr):
    """Write a tile [tokens, width] to a contiguous [length, channels] from token `start` on."""
    token, channel = tl.arange(0, tile.shape[0]), tl.arange(0, tile.shape[1])
    at = base + (start + tl.full([], 0, dtype=tl.int64)) * channels
    at = at + token[:, None] * channels + channel[None, :]
    tl.store(at, tile, mask=(start + token < length)[:, None] & (channel < channels)[None, :])


@triton.jit
def store_tokens(base, tile, token, length, channels: tl.constexpr):
    """Write a tile [tokens, width] to the tokens `token` of a contiguous [length, channels]."""
    channel = tl.arange(0, tile.shape[1])
    at = base + token.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(at, tile, mask=(token < length)[:, None] & (channel < channels)[None, :])


@triton.jit
def add_entries(base, share, at, token, length, size):
    """Add every pair's share to entry `at` of the `size` that its token, along axis 0, has from
    `base` on. No other program adds there; one entry after the other, in order."""
    at = at + tl.zeros(share.shape, dtype=tl.int32)
    there = token < length
    hit = (share != 0.0) & there[:, None]
    low = tl.min(tl.min(tl.where(hit, at, size), 1), 0)
    high = tl.max(tl.max(tl.where(hit, at, -1), 1), 0)
    own = base + token.to(tl.int64) * size
    for entry in range(low, high + 1):
        _add_entry(own + entry, share, at == entry, there)
    tl.debug_barrier()  # the next tile's sums may be read by other threads


@triton.jit
def set_entries(base, share, at, repeated, token, length, size, heads: tl.constexpr = 1):
    """`add_entries` where a token meets no entry twice but those in `repeated`, or all of them once
    for each of so many `heads`."""
    at = at + tl.zeros(share.shape, dtype=tl.int32)
    there = token < length
    own = base + token.to(tl.int64) * size
    for place in tl.static_range(len(repeated)):
        some = there & (repeated[place] >= 0) & (repeated[place] < size)  # it may be none
        _add_entry(own + repeated[place], share, at == repeated[place], some)
        share = tl.where(at == repeated[place], 0.0, share)
    some = (share != 0.0) & there[:, None]
    if heads > 1:
        share += tl.load(own[:, None] + at, mask=some, other=0.0)
        tl.debug_barrier()  # threads that hold the same pair must all have read before one writes
    put(own[:, None] + at, share, some)
    if len(repeated) > 0 or heads > 1:
        tl.debug_barrier()


@triton.jit
def _add_entry(into, share, hit, there):
    """Add the shares of a token, where `hit`, to its number at `into`."""
    part = tl.sum(tl.where(hit, share, 0.0), 1)
    tl.store(into, tl.load(into, mask=there, other=0.0) + part, mask=there)


@triton.jit
def put(at, number, mask):
    """Write float32 numbers to a tile of pointers where `mask`, in the layout of the numbers; see
    `each`."""
    if INTERPRETED or not tl.target_info.is_cuda():
        tl.store(at, number, mask=mask)
    else:
        bits = number.to(tl.int32, bitcast=True)
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.b32 p, $3, 0; @p st.global.b32 [$1], $2; mov.b32 $0, 0; }",
            "=r,l,r,r", [at.to(tl.int64), bits, mask.to(tl.int32)], tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def look_up(base, index, size):
    """Entries of a contiguous table; any number outside it (only masked pairs reach there)."""
    # below 0 is, without a sign, above all
    if index.dtype.primitive_bitwidth == 64:
        far = tl.full([], size - 1, tl.uint64)
        at = tl.minimum(index.to(tl.uint64, bitcast=True), far).to(tl.int64)
    else:
        last = tl.full([], tl.minimum(size - 1, 2147483647), tl.uint32)
        at = tl.minimum(index.to(tl.uint32, bitcast=True), last).to(tl.int32)
    return each(base + at)


@triton.jit
def each(at):
    """What a tile of pointers points to.

    A plain load would be laid out for neighbouring addresses, and the whole tile's arithmetic
    with it, away from the layout that matrix products need; one instruction an element is not.
    """
    if INTERPRETED or not tl.target_info.is_cuda():
        value = tl.load(at)
    elif at.dtype.element_ty.primitive_bitwidth == 8:
        value = tl.inline_asm_elementwise(
            "ld.global.nc.u8 $0, [$1];", "=r,l", [at], tl.int32, is_pure=True, pack=1
        ).to(at.dtype.element_ty)
    elif at.dtype.element_ty.primitive_bitwidth == 16:
        value = tl.inline_asm_elementwise(
            "ld.global.nc.b16 $0, [$1];", "=h,l", [at], at.dtype.element_ty, is_pure=True, pack=1
        )
    elif at.dtype.element_ty.primitive_bitwidth == 32:
        value = tl.inline_asm_elementwise(
            "ld.global.nc.b32 $0, [$1];", "=r,l", [at], at.dtype.element_ty, is_pure=True, pack=1
        )
    else:
        value = tl.inline_asm_elementwise(
            "ld.global.nc.b64 $0, [$1];", "=l,l", [at], at.dtype.element_ty, is_pure=True, pack=1
        )
    return value


@triton.jit
def dot(a, b, acc):
    """acc + a @ b in float32; float32 operands are multiplied as such (no tf32)."""
    if INTERPRETED:
        return acc + tl.dot(a.to(tl.float32), b.to(tl.float32), out_dtype=tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee", out_dtype=tl.float32)


@triton.jit
def finite(x):
    """x with NaN and infinities as 0: a masked key or query must not reach a product."""
    wide = x.to(tl.float32)
    return tl.where(wide - wide == 0.0, x, 0.0).to(x.dtype)


@triton.jit
def narrow(x, like):
    """x in the dtype of `like`; what float16 cannot hold is its largest number there.

    Infinity times an operand of 0 would be NaN, and spoil the sum of all the other pairs.
    """
    if like.dtype == tl.float16:
        x = tl.clamp(x, -65504.0, 65504.0, propagate_nan=tl.PropagateNan.ALL)
    return x.to(like.dtype)


@triton.jit
def weighted(p, v, acc):
    """acc + p @ v in which a value that is not finite counts only where p is not 0."""
    short = p.to(v.dtype)
    acc = dot(short, finite(v), acc)
    if spoiled(v.to(tl.float32)):
        # Rare, so column by column: another product would hold twice the registers.
        if v.dtype == tl.float16:  # where a weight of 1e-8 is 0
            acc = _mark(p, v, acc)
        else:
            acc = _mark(short, v, acc)
    return acc


@triton.jit
def spoiled(acc):
    """Whether some number of a tile is not finite."""
    return tl.max(tl.max(tl.where(acc - acc == 0.0, 0, 1), 1), 0) > 0


@triton.jit
def _mark(p, v, acc):
    """acc as NaN where a p that is not 0 meets a v that is not finite."""
    local = tl.arange(0, p.shape[1])
    for column in range(p.shape[1]):
        hit = tl.max(tl.where((local == column)[None, :] & (p != 0.0), 1, 0), 1)
        wide = v.to(tl.float32)
        bad = tl.max(tl.where((local == column)[:, None] & (wide - wide != 0.0), 1, 0), 0)
        acc = tl.where((hit[:, None] * bad[None, :]) > 0, float("nan"), acc)
    return acc


@triton.jit
def larger(x, y):
    """The larger number; what is not one is the largest."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def first_above(value, top, place, keep):
    """Whether a number, where it takes part, is the first that is above all before it, of which
    `top` is the largest; there is none before it where `place` is below 0."""
    unknown = (value != value) & (top == top)
    return ((place < 0) | (value > top) | unknown) & keep
