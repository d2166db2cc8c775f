"""Relations between calls that hold whatever the right answer is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime import cpu_tiles

B, H, N, D = 2, 4, 70, 8
TABLE = "param table[h, 5] = 0"


def attend(spec: str, **arguments: Any) -> Tensor:
    """The output of a spec on the CPU default."""
    return both(spec, **arguments)[0]


def both(spec: str, **arguments: Any) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp."""
    attention = attnspec.compile(f"attention a\n{spec}")
    output, extras = attention(**arguments, extras=True, backend="cpu")
    return output, extras["lse"]


def qkv(n: int = N, heads: int = H, width: int = D, seed: int = 0) -> dict[str, Tensor]:
    """Random queries, keys and values in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {"q": normal(B, H, n, D), "k": normal(B, heads, n, D), "v": normal(B, heads, n, width)}


def close(got: Tensor, want: Tensor) -> None:
    """Equal to rounding in float64."""
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_a_window_as_long_as_the_sequence_is_causal() -> None:
    x = qkv()
    close(attend(f"mask i - {N} < j <= i", **x), attend("mask j <= i", **x))


def test_a_bias_of_zero_is_none() -> None:
    x, bias = qkv(), torch.zeros(H, N, N, dtype=torch.float64)
    spec = "input bias[h, i, j]\nscore = dot(q[i], k[j]) / sqrt(D) + bias[i, j]"
    close(attend(spec, **x, bias=bias), attend("", **x))


def test_a_constant_in_the_score_changes_only_the_log_sum_exp() -> None:
    x = qkv()
    plain, lse = both("score = dot(q[i], k[j])", **x)
    moved, more = both("score = dot(q[i], k[j]) + 3", **x)
    close(moved, plain)
    close(more, lse + 3)


def test_the_order_of_keys_does_not_matter() -> None:
    x = qkv()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    turned = {"q": x["q"], "k": x["k"][:, :, order], "v": x["v"][:, :, order]}
    for got, want in zip(both("", **turned), both("", **x), strict=True):
        close(got, want)


@pytest.mark.parametrize(
    "mask", ["", "mask j <= i", "mask i - 20 < j <= i", "mask (i + j) % 3 == 0"]
)
@pytest.mark.parametrize("cut", [1, 33, 64])
def test_parts_of_the_keys_merge_by_their_log_sum_exp(mask: str, cut: int) -> None:
    x = qkv()
    whole, lse = both(mask, **x)
    parts = []
    for start, end in ((0, cut), (cut, N)):
        k, v = x["k"][:, :, start:end], x["v"][:, :, start:end]
        parts.append(both(mask, q=x["q"], k=k, v=v, k_start=start))
    (one, a), (two, b) = parts
    total = torch.logaddexp(a, b)
    close(total, lse)
    share = torch.exp(torch.stack([a, b]) - torch.where(total.isneginf(), 0.0, total))[..., None]
    close(share[0] * one + share[1] * two, whole)


def test_parts_of_the_queries_are_rows_of_the_whole() -> None:
    x = qkv()
    spec = "mask i - 9 <= j <= i\nscore = dot(q[i], k[j]) / sqrt(D) - 0.1 * (i - j)"
    whole = attend(spec, **x)
    part = attend(spec, q=x["q"][:, :, 40:], k=x["k"], v=x["v"], q_start=40)
    close(part, whole[:, :, 40:])


def test_a_gate_of_one_is_no_gate() -> None:
    x, gate = qkv(), torch.ones(B, H, N, dtype=torch.float64)
    close(attend("input g[b, h, i]\ngate = g[i]", **x, g=gate), attend("", **x))


def test_batches_and_heads_do_not_mix() -> None:
    x = qkv()
    spec = "param s[h] = 0.3\nmask j <= i\nscore = dot(q[i], k[j]) - s * (i - j)"
    s = torch.rand(H, dtype=torch.float64)
    whole = attend(spec, **x, s=s)
    order = torch.tensor([2, 0, 3, 1])
    turned = {name: tensor.flip(0)[:, order] for name, tensor in x.items()}
    close(attend(spec, **turned, s=s[order]), whole.flip(0)[:, order])


def test_one_head_of_keys_is_that_head_repeated() -> None:
    x = qkv(heads=1)
    wide = {"q": x["q"], **{n: x[n].expand(B, H, N, D).clone() for n in ("k", "v")}}
    close(attend("mask j <= i", **x), attend("mask j <= i", **wide))


@pytest.mark.parametrize("tile", [(1, 1), (7, 3), (16, 64), (512, 16)])
def test_the_size_of_tiles_does_not_matter(
    tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = (
        "param table[h, 5] = 0\nmask i - 30 <= j <= i\nscore = dot(q[i], k[j]) + table[(i - j) % 5]"
    )
    x = {n: t.requires_grad_() for n, t in qkv().items()}
    t = torch.randn(H, 5, dtype=torch.float64, requires_grad=True)

    def everything() -> list[Tensor]:
        output, lse = both(spec, **x, table=t)
        total = output.square().sum() + lse.sin().sum()
        return [output, lse, *torch.autograd.grad(total, [*x.values(), t])]

    want = everything()
    monkeypatch.setattr(cpu_tiles, "ROWS", tile[0])
    monkeypatch.setattr(cpu_tiles, "COLUMNS", tile[1])
    for got, expected in zip(everything(), want, strict=True):
        close(got, expected)


MASKS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "j <= i": lambda i, j, h: j <= i,
    "j < i": lambda i, j, h: j < i,
    "i - 7 < j <= i": lambda i, j, h: (i - 7 < j) & (j <= i),
    "abs(i - j) <= 40": lambda i, j, h: (i - j).abs() <= 40,
    "i // 8 == j // 8": lambda i, j, h: i // 8 == j // 8,
    "j // 5 <= i // 3": lambda i, j, h: j // 5 <= i // 3,
    "i // 5 <= j // 3": lambda i, j, h: i // 5 <= j // 3,
    "j % 4 == 1 or j == i": lambda i, j, h: (j % 4 == 1) | (j == i),
    "not (i - j) % 3 == 0": lambda i, j, h: (i - j) % 3 != 0,
    "(i - j) // 6 == 1": lambda i, j, h: (i - j) // 6 == 1,
    "(j - i) // 6 == -2": lambda i, j, h: (j - i) // 6 == -2,
    "min(i, 33) <= j + 1": lambda i, j, h: i.clamp(max=33) <= j + 1,
    "max(j, 20) <= i + 4": lambda i, j, h: j.clamp(min=20) <= i + 4,
    "2 * j <= i + 5 and j != 3": lambda i, j, h: (2 * j <= i + 5) & (j != 3),
    "i + j < 40": lambda i, j, h: i + j < 40,
    "-j <= 5 - i": lambda i, j, h: -j <= 5 - i,
    "i - j >= 3 and i - j <= 20": lambda i, j, h: (i - j >= 3) & (i - j <= 20),
    "clamp(i - j, 0, 9) == 4 or j == 0": lambda i, j, h: ((i - j) == 4) | (j == 0),
    "j >= clamp(i, 10, 30)": lambda i, j, h: j >= i.clamp(10, 30),
    "j <= i % 16": lambda i, j, h: j <= i % 16,
    "j <= 2 * i and j >= 10": lambda i, j, h: (j <= 2 * i) & (j >= 10),
    "h % 2 == 0 or j <= i": lambda i, j, h: (h % 2 == 0) | (j <= i),
    "i <= j <= i + 3 or i + 9 <= j <= i + 12": lambda i, j, h: (
        ((i <= j) & (j <= i + 3)) | ((i + 9 <= j) & (j <= i + 12))
    ),
    "not (j < i or j > i + 20)": lambda i, j, h: (j >= i) & (j <= i + 20),
    "not j > i and not j <= i - 9": lambda i, j, h: (j <= i) & (j > i - 9),
    "j >= 10 and i - 5 <= j <= i": lambda i, j, h: (j >= 10) & (i - 5 <= j) & (j <= i),
    "j <= i and j < 30": lambda i, j, h: (j <= i) & (j < 30),
    "max(-i, -20) + j <= 5": lambda i, j, h: j <= 5 + i.clamp(max=20),
    "i % 3 == 0": lambda i, j, h: (i % 3 == 0) & (j >= 0),
    "i >= 5 and j <= i": lambda i, j, h: (i >= 5) & (j <= i),
    "j <= i + 4 * h": lambda i, j, h: j <= i + 4 * h,
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("q_start", "k_start"), [(0, 0), (13, 5), (0, 80)])
def test_values_that_are_the_identity_recover_the_mask(
    mask: str, q_start: int, k_start: int
) -> None:
    x = qkv(heads=1, width=N)
    x["v"] = torch.eye(N, dtype=torch.float64).expand(B, 1, N, N)
    output, lse = both(f"mask {mask}", **x, q_start=q_start, k_start=k_start)
    i, j = torch.arange(N)[:, None] + q_start, torch.arange(N)[None, :] + k_start
    allowed = MASKS[mask](i, j, torch.arange(H)[:, None, None]).expand(B, H, N, N)
    assert torch.equal(output > 0, allowed)
    assert torch.equal(lse.isneginf(), ~allowed.any(-1))


def test_a_call_repeats_bit_by_bit() -> None:
    spec = (
        "param table[h, 5] = 0\nmask j <= i\nscore = dot(q[i], k[j]) / sqrt(D) + table[(i - j) % 5]"
    )
    attention = attnspec.compile(f"attention a\n{spec}")
    x = {n: t.float().requires_grad_() for n, t in qkv(300).items()}
    t = torch.randn(H, 5, requires_grad=True)
    first: list[Tensor] = []
    for _ in range(5):
        output, extras = attention(**x, table=t, extras=True, backend="cpu")
        total = output.square().sum() + extras["lse"].sum()
        found = [output, extras["lse"], *torch.autograd.grad(total, [*x.values(), t])]
        assert all(torch.equal(a, b) for a, b in zip(found, first or found, strict=True))
        first = found
