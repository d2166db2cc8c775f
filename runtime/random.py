"""The language's random numbers: Philox 4x32-10 (Salmon et al. 2011), counter (b * H + h, i, j, 0).

The key is the seed's low and high 32 bits. Of the first word's 32 bits the upper 23 count:
(word >> 9 + 1/2) / 2**23 lies strictly between 0 and 1 and is exact in float32. Every lowering
computes the same integers, so a dropout mask is the same everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def uniform(seed: Tensor, sequence: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """float64 numbers in (0, 1) for int64 tensors that broadcast; `sequence` is b * H + h."""
    word = philox(seed, sequence, row, column, torch.zeros_like(row))[0]
    return ((word >> 9).to(torch.float64) + 0.5) * 2.0**-23


def random_tile(seed: Tensor | int, sequence: Tensor | int, row: Tensor, column: Tensor) -> Tensor:
    """`uniform` of a tile's positions in float32, which holds every such number exactly."""
    wide = [torch.as_tensor(x, device=row.device).long() for x in (seed, sequence, row, column)]
    return uniform(*torch.broadcast_tensors(*wide)).float()


def philox(seed: Tensor, *counter: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of Philox 4x32-10 as int64 tensors."""
    c0, c1, c2, c3 = (c & _WORD for c in counter)
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low word of a product of two words, in int64 without overflow."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)
