"""Formulas of the specs with learned vectors for relative positions."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, attend_all, attend_causal, dots
from torch import Tensor


def shaw(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
    reach, n = 16, k.shape[2]
    places = [[max(-reach, min(j - i, reach)) + reach for j in range(n)] for i in range(n)]
    keys = k[:, :, None] + rows[torch.tensor(places)]  # a key of its own for each pair
    return attend_all(torch.einsum("bhid,bhijd->bhij", q, keys) / math.sqrt(q.shape[3]), v)


def shaw_values(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, turned: int = 1
) -> Tensor:
    reach, n = 16, k.shape[2]

    def of_pairs(table: Tensor, sign: int) -> Tensor:
        apart = [[sign * (j - i) for j in range(n)] for i in range(n)]
        return table[torch.tensor(apart).clamp(-reach, reach) + reach]

    keys = k[:, :, None] + of_pairs(rows, 1)
    score = torch.einsum("bhid,bhijd->bhij", q, keys) / math.sqrt(q.shape[3])
    values = v[:, :, None] + of_pairs(columns, turned)  # a value of its own for each pair
    return torch.einsum("bhij,bhije->bhie", score.softmax(3), values)


def values_turned(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The vectors of values by the distance from the key to the query."""
    return shaw_values(q, k, v, rows, columns, turned=-1)


def log_bucket(apart: int, half: int, longest: int) -> int:
    """The distance itself up to `half`, then logarithmic, with its sign."""
    size = abs(apart)
    if size <= half:
        return apart
    share = math.log(size / half) / math.log((longest - 1) / half)
    return int(math.copysign(half + math.ceil(share * (half - 1)), apart))


def deberta(
    q: Tensor, k: Tensor, v: Tensor, key_rows: Tensor, query_rows: Tensor, turned: int = -1
) -> Tensor:
    half, longest, n = 4, 32, k.shape[2]

    def place(apart: int) -> int:
        return max(0, min(log_bucket(apart, half, longest) + 2 * half, 4 * half - 1))

    by_query = torch.einsum("bhid,hld->bhil", q, key_rows)
    by_key = torch.einsum("bhjd,hld->bhjl", k, query_rows)
    forth = torch.tensor([[place(i - j) for j in range(n)] for i in range(n)])
    back = torch.tensor([[place(turned * (i - j)) for i in range(n)] for j in range(n)])
    to_position = by_query.gather(3, forth.expand(*q.shape[:2], n, n))
    to_content = by_key.gather(3, back.expand(*q.shape[:2], n, n)).mT
    return attend_all((dots(q, k) + to_position + to_content) / math.sqrt(3 * q.shape[3]), v)


def one_distance_for_both(
    q: Tensor, k: Tensor, v: Tensor, key_rows: Tensor, query_rows: Tensor
) -> Tensor:
    """The key looks at the query with the distance of the query to the key."""
    return deberta(q, k, v, key_rows, query_rows, turned=1)


def transformer_xl(q: Tensor, k: Tensor, v: Tensor, r: Tensor, u: Tensor, w: Tensor) -> Tensor:
    # The relative shift: products with the rows for n - 1 down to 0, and a column too many that
    # moves every row by one place against the one before.
    b, h, m, _ = q.shape
    n = k.shape[2]
    products = (q + w[:, None]) @ r[:, :n].flip(1).mT
    padded = torch.nn.functional.pad(products, (1, 0)).reshape(b, h, n + 1, m)
    shifted = padded[:, :, 1:].reshape(b, h, m, n)
    score = dots(q + u[:, None], k) + shifted
    return attend_causal(score / math.sqrt(q.shape[3]), v)


def one_vector_for_both(q: Tensor, k: Tensor, v: Tensor, r: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """The vector added for contents added for positions too."""
    return transformer_xl(q, k, v, r, u, u + 0 * w)


def distances_dropped(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
    """Keys beyond the reach without a vector instead of the outermost one."""
    reach, n = 16, k.shape[2]
    apart = torch.arange(n) - torch.arange(n)[:, None]
    inside = (apart.abs() <= reach)[..., None]
    keys = k[:, :, None] + rows[apart.clamp(-reach, reach) + reach] * inside
    return attend_all(torch.einsum("bhid,bhijd->bhij", q, keys) / math.sqrt(q.shape[3]), v)


CASES = {
    "shaw": Case(shaw, lambda r: {"rows": r.normal(33, r.d)}, m=21, n=21),
    "shaw_values": Case(
        shaw_values,
        lambda r: {"rows": r.normal(33, r.d), "columns": r.normal(33, r.e)},
        m=21,
        n=21,
    ),
    "deberta": Case(
        deberta,
        lambda r: {"key_rows": r.normal(r.h, 16, r.d), "query_rows": r.normal(r.h, 16, r.d)},
        m=37,
        n=37,
        b=1,
    ),
    "transformer_xl": Case(
        transformer_xl,
        lambda r: {
            "r": r.normal(r.h, r.n + 2, r.d),
            "u": r.normal(r.h, r.d),
            "w": r.normal(r.h, r.d),
        },
    ),
}
