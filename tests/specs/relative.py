"""Formulas of the specs with learned vectors for relative positions."""

from __future__ import annotations

import math
from itertools import product

import torch
from tests.specs.case import Case, Draw, attend_all, attend_causal, dots, scaled
from tests.specs.scores import rotate
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


def pine(q: Tensor, k: Tensor, v: Tensor, text: Tensor, length: Tensor) -> Tensor:
    """Every query's keys laid out anew, one after another up to where its own text begins."""
    bare, out, pages = scaled(q, k), torch.zeros_like(v), length.shape[1]
    for b, h, i in product(*map(range, q.shape[:3])):
        kinds = text[b].tolist()
        own, inside = kinds[i], range(pages)
        far = {*inside} - {own} if own in inside else set()
        seen = [j for j, t in enumerate(kinds) if j <= i or t in far]
        share = dict(zip(seen, bare[b, h, i, seen].softmax(0).tolist(), strict=True))
        mine: dict[int, list[float]] = {page: [] for page in inside}
        for j in seen:
            mine.get(kinds[j], []).append(share[j])
        regard = {page: sum(x) / max(len(x), 1) for page, x in mine.items() if page != own}
        rising = sorted(regard, key=lambda page: (regard[page], -page))
        before = [
            j for page in (-1, *rising) if page != own for j, t in enumerate(kinds) if t == page
        ]
        start = kinds.index(own)
        place = {j: start - len(before) + n for n, j in enumerate(before)}
        at = torch.tensor([float(place.get(j, j)) for j in seen], dtype=q.dtype)
        turned = rotate(k[b, h, seen], at) @ rotate(q[b, h, i : i + 1], torch.tensor([float(i)]))[0]
        out[b, h, i] = (turned / q.shape[3] ** 0.5).softmax(0) @ v[b, h, seen]
    return out


def _texts(r: Draw) -> dict[str, Tensor]:
    """Texts of different lengths in a row, one of which is not there in the second batch."""
    rows = [[-1] * 2 + [0] * 3 + [1] * 2 + [2] * 2 + [3] * 2, [0] * 4 + [2] * 5 + [3] * 2]
    text = torch.tensor(rows)
    return {"text": text, "length": torch.stack([(text == page).sum(1) for page in range(3)], 1)}


CASES = {
    "pine": Case(pine, _texts),
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
