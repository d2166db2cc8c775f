"""The reference against plain PyTorch: masks, biases and normalisers over tokens."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tests.runtime.conftest import agree, random_leaf, run, same, spec_of
from torch import Tensor

import attnspec
from attnspec.runtime.bind import bind
from attnspec.runtime.named import Named
from attnspec.runtime.random import uniform
from attnspec.runtime.reductions import Rounding, rounded, softmax
from attnspec.runtime.reference import evaluate
from attnspec.runtime.signature_of import signature

B, H, N, D, E = 2, 4, 9, 6, 5


def qkv(m: int = N, n: int = N, heads: int = H, d: int = D) -> dict[str, Tensor]:
    return {
        "q": random_leaf(B, H, m, d),
        "k": random_leaf(B, heads, n, d),
        "v": random_leaf(B, heads, n, E),
    }


def attend(score: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention; rows without a key give 0."""
    if mask is not None:
        score = score.masked_fill(~mask, -math.inf)
    return score.softmax(-1).nan_to_num() @ v


def dots(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / math.sqrt(q.shape[-1])


def offsets(m: int = N, n: int = N) -> Tensor:
    """i - j."""
    return torch.arange(m)[:, None] - torch.arange(n)


def test_plain_and_causal_are_sdpa() -> None:
    same("mask true", lambda q, k, v: F.scaled_dot_product_attention(q, k, v), **qkv(m=4))
    same(
        "mask j <= i",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        **qkv(),
    )


def test_grouped_heads_and_broadcast_batch() -> None:
    x = qkv(heads=2)
    same("mask true", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), **x)
    x["k"] = random_leaf(1, 2, N, D)
    same(
        "mask true",
        lambda q, k, v: F.scaled_dot_product_attention(
            q, k.expand(B, -1, -1, -1), v, enable_gqa=True
        ),
        **x,
    )


def test_window_with_a_scalar_argument() -> None:
    def formula(q: Tensor, k: Tensor, v: Tensor, w: int) -> Tensor:
        rows = []
        for i in range(N):
            low = max(0, i - w)
            weight = dots(q[:, :, i : i + 1], k[:, :, low : i + 1]).softmax(-1)
            rows.append(weight @ v[:, :, low : i + 1])
        return torch.cat(rows, 2)

    same("input w: int = 3 where w > 0\nmask i - w <= j <= i", formula, **qkv(), w=3)


def test_starts_shift_positions() -> None:
    x = qkv(m=3, n=5)
    mask = torch.tensor([[2 + j <= 4 + i for j in range(5)] for i in range(3)])
    slope = torch.tensor([[(4.0 + i) * (2 + j) for j in range(5)] for i in range(3)]).double()
    same(
        "mask j <= i\nscore = dot(q[i], k[j]) / sqrt(D) - i * j / 7",
        lambda q, k, v, q_start, k_start: attend(dots(q, k) - slope / 7, v, mask),
        **x,
        q_start=4,
        k_start=2,
    )


def test_prefix_and_documents() -> None:
    doc = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2], [5, 5, 5, 5, 5, 5, 5, 5, 5]])
    prefix = torch.tensor([2, 6])

    def formula(q: Tensor, k: Tensor, v: Tensor, doc: Tensor, prefix: Tensor) -> Tensor:
        out = torch.zeros(B, H, N, E, dtype=q.dtype)
        for b in range(B):
            for i in range(N):
                keys = [j for j in range(N) if doc[b, i] == doc[b, j] and (j <= i or j < prefix[b])]
                weight = dots(q[b, :, i : i + 1], k[b][:, keys]).softmax(-1)
                out[b, :, i] = (weight @ v[b][:, keys])[:, 0]
        return out

    same(
        "input doc[b, n]: int\ninput prefix[b]: int\n"
        "mask doc[i] == doc[j] and (j <= i or j < prefix)",
        formula,
        **qkv(),
        doc=doc,
        prefix=prefix,
    )


def test_a_pair_gives_each_side_its_own_rows() -> None:
    mine, theirs = torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 1, 2, 1]])
    mask = mine[0][:, None] == theirs[0]
    same(
        "input doc[b, n]: int\nmask doc[i] == doc[j]",
        lambda q, k, v, doc: attend(dots(q, k), v, mask),
        **qkv(m=3, n=5),
        doc=(mine, theirs),
    )


def test_alibi_default_slopes() -> None:
    slope = torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256], dtype=torch.float64)[:, None, None]
    same(
        "param slope[h] = 2 ** (-8 * (h + 1) / H)\nmask j <= i\n"
        "score = dot(q[i], k[j]) / sqrt(D) - slope * (i - j)",
        lambda q, k, v: attend(dots(q, k) - slope * offsets(), v, offsets() >= 0),
        **qkv(),
    )


def test_t5_buckets() -> None:
    def bucket(i: int, j: int) -> int:
        base, gap = (16 if j > i else 0), abs(i - j)
        if gap < 8:
            return base + gap
        return base + min(15, 8 + int(math.log(gap / 8) / math.log(128 / 8) * 8))

    n = 150
    places = torch.tensor([[bucket(i, j) for j in range(n)] for i in range(n)])
    same(
        "param table[h, 32] = 0\nlet gap = abs(i - j)\n"
        "let far = 8 + floor(log(max(gap, 8) / 8) / log(128 / 8) * 8)\n"
        "let bucket = where(j > i, 16, 0) + where(gap < 8, gap, min(far, 15))\n"
        "score = dot(q[i], k[j]) + table[bucket]",
        lambda q, k, v, table: attend(q @ k.mT + table[:, places], v),
        **qkv(n, n),
        table=random_leaf(H, 32),
    )


def test_relative_table_and_music_skew() -> None:
    def skew(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        # Huang et al.: pad, reshape and cut, so that row i has the offsets j - i.
        relative = F.pad(q @ table.mT, (1, 0)).reshape(B, H, N + 1, N)[:, :, 1:]
        return attend((q @ k.mT + relative) / math.sqrt(D), v, offsets() >= 0)

    same(
        f"const L: int = {N}\nparam table[h, L, d]\nmask j <= i\n"
        "score = (dot(q[i], k[j]) + dot(q[i], table[clamp(j - i + L - 1, 0, L - 1)])) / sqrt(D)",
        skew,
        **qkv(),
        table=random_leaf(H, N, D),
    )


def test_softcap_and_cosine() -> None:
    same(
        "mask j <= i\nscore = 5 * tanh(dot(q[i], k[j]) / sqrt(D) / 5)",
        lambda q, k, v: attend(5 * torch.tanh(dots(q, k) / 5), v, offsets() >= 0),
        **qkv(),
    )
    same(
        "param tau[h] = 10\nscore = tau * dot(normalize(q[i]), normalize(k[j]))",
        lambda q, k, v, tau: attend(
            tau[:, None, None] * F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT, v
        ),
        **qkv(),
        tau=random_leaf(H),
    )


def test_rms_norm_of_queries_and_keys() -> None:
    same(
        "param g[d] = 1\nscore = dot(rmsnorm(q[i]) * g, rmsnorm(k[j])) / sqrt(D)",
        lambda q, k, v, g: attend(
            dots(F.rms_norm(q, (D,), eps=1e-6) * g, F.rms_norm(k, (D,), eps=1e-6)), v
        ),
        **qkv(),
        g=random_leaf(D),
    )


def test_rope_is_a_complex_rotation() -> None:
    def turn(x: Tensor, position: Tensor, base: float) -> Tensor:
        half = x.shape[-1] // 2
        rate = base ** (-torch.arange(half, dtype=torch.float64) / half)
        z = torch.complex(x[..., :half], x[..., half:])
        z = z * torch.polar(torch.ones((), dtype=torch.float64), position[:, None] * rate)
        return torch.cat([z.real, z.imag], -1)

    where = torch.arange(N, dtype=torch.float64)
    same(
        "score = dot(rope(q[i], i), rope(k[j], j)) / sqrt(D)",
        lambda q, k, v: attend(dots(turn(q, where, 1e4), turn(k, where, 1e4)), v),
        **qkv(),
    )
    y, x = where // 3, where % 3

    def plane(z: Tensor) -> Tensor:
        return torch.cat([turn(z[..., :4], y, 100.0), turn(z[..., 4:], x, 100.0)], -1)

    same(
        "grid y, x\n"
        "score = dot(rope(q[i], i.y, i.x, base=100), rope(k[j], j.y, j.x, base=100)) / sqrt(D)",
        lambda q, k, v, GY, GX: attend(dots(plane(q), plane(k)), v),  # noqa: N803
        **qkv(d=8),
        GY=3,
        GX=3,
    )


def test_sink_takes_mass() -> None:
    def formula(q: Tensor, k: Tensor, v: Tensor, s: Tensor) -> Tensor:
        score = dots(q, k).masked_fill(offsets() < 0, -math.inf)
        column = s[None, :, None, None].expand(B, H, N, 1)
        return torch.cat([score, column], -1).softmax(-1)[..., :-1] @ v

    same(
        "param s[h] = 0\nmask j <= i\nweight = softmax(score, sink=s)",
        formula,
        **qkv(),
        s=random_leaf(H),
    )


def test_learned_prefix_through_a_sink() -> None:
    def formula(q: Tensor, k: Tensor, v: Tensor, pk: Tensor, pv: Tensor) -> Tensor:
        score = dots(q, k).masked_fill(offsets() < 0, -math.inf)
        weight = torch.cat([dots(q, pk), score], -1).softmax(-1)
        return weight @ torch.cat([pv.expand(B, -1, -1, -1), v], 2)

    same(
        "axis p = 3\nparam pk[h, p, d] = 0\nparam pv[h, p, e] = 0\n"
        "let sp[i, p] = dot(q[i], pk[p]) / sqrt(D)\nmask j <= i\n"
        "output = (sum(j, softmax(score, sink=logsumexp(p, sp)) * v[j])\n"
        "  + sum(p, softmax(sp, over=p, sink=logsumexp(j, score)) * pv))",
        formula,
        **qkv(),
        pk=random_leaf(H, 3, D),
        pv=random_leaf(H, 3, E),
    )


def test_element_wise_weights() -> None:
    same(
        "mask j <= i\nweight = sigmoid(score - log(N))",
        lambda q, k, v: torch.sigmoid(dots(q, k) - math.log(N)).tril() @ v,
        **qkv(),
    )
    same(
        "weight = relu(score) ** 2 / N",
        lambda q, k, v: F.relu(dots(q, k)) ** 2 / N @ v,
        **qkv(),
    )
    same(
        "weight = 0.5 * (1 + erf((score - sqrt(0.5)) / (sqrt(1 / (4 * pi)) * sqrt(2))))",
        lambda q, k, v: torch.special.ndtr((dots(q, k) - 0.5**0.5) * (4 * math.pi) ** 0.5) @ v,
        **qkv(),
    )


def test_gate_and_head_statistics() -> None:
    same(
        "query g[e]\nmask j <= i\ngate = sigmoid(g[i])",
        lambda q, k, v, g: torch.sigmoid(g) * attend(dots(q, k), v, offsets() >= 0),
        **qkv(),
        g=random_leaf(B, H, N, E),
    )
    same(
        "mask j <= i\nlet o[i] = sum(j, weight * v[j])\n"
        "output = o * rsqrt(mean(h, e, o ** 2) + 1e-6)",
        lambda q, k, v: _rms_over_heads(attend(dots(q, k), v, offsets() >= 0)),
        **qkv(),
    )


def _rms_over_heads(o: Tensor) -> Tensor:
    return o * torch.rsqrt(o.square().mean((1, 3), keepdim=True) + 1e-6)


def test_talking_heads() -> None:
    same(
        "index g = h\naxis g2 = 4\nparam A[h, g2] = 0\nlet P[h, i, j] = softmax(score)\n"
        "weight = sum(g, A[g] * P[g, i, j])",
        lambda q, k, v, A: torch.einsum("hg,bgij->bhij", A, dots(q, k).softmax(-1)) @ v,  # noqa: N803
        **qkv(),
        A=random_leaf(H, H),
    )


def test_differential() -> None:
    def formula(
        q: Tensor, k: Tensor, v: Tensor, q2: Tensor, k2: Tensor, l1: Tensor, l2: Tensor
    ) -> Tensor:
        lam = (l1 * l2).sum(-1).exp()[:, None, None] + 0.8
        causal = offsets() >= 0
        o = attend(dots(q, k), v, causal) - lam * attend(dots(q2, k2), v, causal)
        return F.rms_norm(o, (E,), eps=1e-6) * 0.2

    same(
        "query q2[d]\nkey k2[d]\nparam l1[h, d] = 0\nparam l2[h, d] = 0\nmask j <= i\n"
        "let lam = exp(dot(l1, l2)) + 0.8\n"
        "weight = softmax(score) - lam * softmax(dot(q2[i], k2[j]) / sqrt(D))\n"
        "output = rmsnorm(sum(j, weight * value)) * (1 - 0.8)",
        formula,
        **qkv(),
        q2=random_leaf(B, H, N, D),
        k2=random_leaf(B, H, N, D),
        l1=random_leaf(H, D),
        l2=random_leaf(H, D),
    )


def test_latent_heads_with_a_shared_rotary_part() -> None:
    same(
        "axis r = 4\nquery qr[r]\nkey kr[r]\nmask j <= i\n"
        "score = (dot(q[i], k[j]) + dot(qr[i], kr[j])) / sqrt(D + size(r))",
        lambda q, k, v, qr, kr: attend(
            dots(torch.cat([q, qr], -1), torch.cat([k, kr.expand(-1, H, -1, -1)], -1)),
            v,
            offsets() >= 0,
        ),
        **qkv(),
        qr=random_leaf(B, H, N, 4),
        kr=random_leaf(B, 1, N, 4),
    )


def test_topk_of_every_row() -> None:
    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        score = dots(q, k).masked_fill(offsets() < 0, -math.inf)
        kth = score.topk(3, dim=-1).values[..., -1:]
        return attend(score, v, (score >= kth) & (offsets() >= 0))

    same("mask j <= i\nmask topk(j, score, 3, where=j <= i)", formula, **qkv())


def test_block_means_choose_blocks() -> None:
    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        means = torch.stack([c.mean(2) for c in k.split(4, 2)], 2)
        gate = q @ means.mT
        own = torch.arange(N) // 4
        blocks = torch.arange(3)
        gate = gate.masked_fill(blocks >= own[:, None], -math.inf)
        chosen = torch.zeros(B, H, N, 3, dtype=torch.bool)
        chosen.scatter_(-1, gate.topk(1, -1).indices, True)
        chosen &= gate > -math.inf
        chosen |= blocks == own[:, None]
        return attend(dots(q, k), v, chosen[..., own] & (offsets() >= 0))

    same(
        "blocks c = j // 4\nlet g[i, c] = dot(q[i], mean(j, k[j], where=j in c))\n"
        "let chosen[i, c] = topk(c, g, 1, where=c < i // 4) or i in c\n"
        "mask j <= i\nmask chosen[i, j // 4]",
        formula,
        **qkv(),
    )


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_entmax_against_the_sorted_solution(alpha: float) -> None:
    def row(z: Tensor) -> Tensor:
        """Martins and Astudillo's sparsemax, Peters et al.'s exact 1.5-entmax."""
        ordered = z.sort(descending=True).values
        best = torch.zeros_like(z)
        for size in range(1, len(z) + 1):
            top = ordered[:size]
            if alpha == 2.0:
                tau = (top.sum() - 1) / size
                p = (z - tau).clamp(min=0)
            else:
                half = top / 2
                spread = 1 - size * (half.square().mean() - half.mean() ** 2)
                if spread < 0:
                    continue
                tau = half.mean() - (spread / size).sqrt()
                p = (z / 2 - tau).clamp(min=0) ** 2
            if int((p > 0).sum()) == size:
                best = p
        return best

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        score = 3 * q @ k.mT
        weight = torch.zeros(B, H, N, N, dtype=q.dtype)
        for b in range(B):
            for h in range(H):
                for i in range(N):
                    weight[b, h, i, : i + 1] = row(score[b, h, i, : i + 1])
        assert int((weight == 0).sum()) > B * H * N * (N - 1) // 2
        return weight @ v

    name = "sparsemax(score)" if alpha == 2.0 else f"entmax(score, alpha={alpha})"
    same(f"mask j <= i\nscore = 3 * dot(q[i], k[j])\nweight = {name}", formula, **qkv())


def test_entmax_learns_alpha() -> None:
    spec = spec_of(
        "param a[h] = 0\nmask j <= i\nscore = 2 * dot(q[i], k[j])\n"
        "weight = entmax(score, alpha=1 + sigmoid(a))\noutput = sum(j, weight * v[j])"
    )
    a = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
    q, k, v = (random_leaf(1, 2, 4, 2) for _ in range(3))

    def f(*leaves: Tensor) -> Tensor:
        output = evaluate(spec, bind(signature(spec), leaves, {})).output
        assert output is not None
        return output

    assert torch.autograd.gradcheck(f, (q, k, v, a), atol=1e-6)


def test_dual_and_reversed_softmax() -> None:
    same(
        "weight = softmax(score) * softmax(score, over=i)",
        lambda q, k, v: dots(q, k).softmax(-1) * dots(q, k).softmax(-2) @ v,
        **qkv(m=5),
    )
    same(
        "mask j <= i\nlet a = softmax(score, over=i) + 1e-3\nweight = a / sum(j, a)",
        _slots,
        **qkv(),
    )


def _slots(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    causal = offsets() >= 0
    a = dots(q, k).masked_fill(~causal, -math.inf).softmax(-2) + 1e-3
    return (a * causal / (a * causal).sum(-1, keepdim=True)) @ v


def test_forgetting_through_a_cumulative_sum() -> None:
    def formula(q: Tensor, k: Tensor, v: Tensor, f: Tensor) -> Tensor:
        c = F.logsigmoid(f).cumsum(-1)
        return attend(dots(q, k) + c[..., :, None] - c[..., None, :], v, offsets() >= 0)

    same(
        "input f[b, h, n]\nlet c[n] = cumsum(n, logsigmoid(f[n]))\nmask j <= i\n"
        "score = dot(q[i], k[j]) / sqrt(D) + c[i] - c[j]",
        formula,
        **qkv(),
        f=random_leaf(B, H, N),
    )


def test_attention_free_transformer() -> None:
    def formula(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
        e = (k[:, :, None] + w[:N, :N, None]).exp()
        return torch.sigmoid(q) * (e * v[:, :, None]).sum(3) / e.sum(3)

    x = qkv(d=E)
    same(
        "query q[e]\nkey k[e]\nparam w[16, 16] = 0\nrequire i < 16 and j < 16\n"
        "score = k[j] + w[i, j]\ngate = sigmoid(q[i])",
        formula,
        **x,
        w=random_leaf(16, 16),
    )


def test_additive_scores_and_returns() -> None:
    w, q, k = random_leaf(H, D), random_leaf(B, H, 4, D), random_leaf(B, H, N, D)
    used = torch.rand(B, 4, N) < 0.4
    outputs = run(
        "param w[h, d] = 1\ninput used[b, i, j]: bool\nmask not used[i, j]\n"
        "score = dot(w, tanh(k[j] + q[i]))\noutput = none\nreturn p[b, h, i, j] = weight\n"
        "return logp[b, h, i, j] = where(used[i, j], 0, score - logsumexp(j, score))",
        q=q,
        k=k,
        w=w,
        used=used,
    )
    assert outputs.output is None
    score = (torch.tanh(q[:, :, :, None] + k[:, :, None]) * w[:, None, None]).sum(-1)
    score = score.masked_fill(used[:, None], -math.inf)
    agree(outputs.extras["p"], score.softmax(-1), [q, k, w])
    want = torch.where(used[:, None], 0, score.log_softmax(-1))
    agree(outputs.extras["logp"], want, [q, k, w])
    agree(outputs.extras["lse"], score.logsumexp(-1), [q, k, w])


def test_agents_chain_two_softmaxes() -> None:
    def formula(q: Tensor, k: Tensor, v: Tensor, GY: int, GX: int) -> Tensor:  # noqa: N803
        agents = F.adaptive_avg_pool2d(q.transpose(2, 3).reshape(B * H, D, GY, GX), 2)
        agents = agents.reshape(B, H, D, 4).mT
        return attend(dots(q, agents), attend(dots(agents, k), v))

    same(
        "grid y, x\naxis a = 4\nrequire GY % 2 == 0 and GX % 2 == 0\n"
        "let cell(z) = z.y // (GY // 2) * 2 + z.x // (GX // 2)\n"
        "let A[a] = mean(i, q[i], where=cell(i) == a)\n"
        "let VA[a] = sum(j, softmax(dot(A[a], k[j]) / sqrt(D), over=j) * v[j])\n"
        "output = sum(a, softmax(dot(q[i], A[a]) / sqrt(D), over=a) * VA[a])",
        formula,
        **qkv(24, 24),
        GY=4,
        GX=6,
    )


def test_dropout_is_the_counter_based_hash() -> None:
    def formula(q: Tensor, k: Tensor, v: Tensor, seed: int, q_start: int, k_start: int) -> Tensor:
        bh = torch.arange(B * H).reshape(B, H, 1, 1)
        i, j = torch.arange(3, 3 + N)[:, None], torch.arange(1, 1 + N)
        keep = uniform(torch.tensor(seed), bh, i, j) >= 0.3
        assert 0.6 < keep.double().mean() < 0.8
        return dots(q, k).softmax(-1) * keep / 0.7 @ v

    same(
        "input seed: int = 0\nweight = where(random(seed) < 0.3, 0, softmax(score) / 0.7)",
        formula,
        **qkv(),
        seed=11,
        q_start=3,
        k_start=1,
    )


def test_hard_attention_reads_one_key() -> None:
    x = qkv()
    same(
        "let pick[i] = argmax(j, score)\noutput = v[pick[i]]",
        lambda q, k, v: v.gather(2, dots(q, k).argmax(-1, keepdim=True).expand(-1, -1, -1, E)),
        **x,
    )


def test_rows_without_a_key_give_zero_and_no_gradient() -> None:
    seen = torch.ones(B, N, dtype=torch.bool)
    seen[0] = False
    x: dict[str, Any] = qkv()
    outputs = run("input seen[b, j]: bool\nmask seen[j]", **x, seen=seen)
    assert outputs.output is not None
    assert not outputs.output[0].any()
    assert (outputs.extras["lse"][0] == -math.inf).all()
    assert outputs.extras["lse"][1].isfinite().all()
    total = outputs.output.sum() + outputs.extras["lse"].sum()
    for leaf in torch.autograd.grad(total, list(x.values())):
        assert leaf.isfinite().all()
        assert not leaf[0].any()
        assert leaf[1].any()


def test_a_pair_left_out_has_weight_0_in_a_row_that_is_not_a_number() -> None:
    spec = "attention a\ninput open[i, j]: bool\nmask open[i, j]\nreturn p[b, h, i, j] = weight\n"
    attention = attnspec.compile(spec)
    q, k, v = (torch.ones(1, 1, n, 2) for n in (2, 3, 3))
    q[0, 0, 1] = float("nan")
    allowed = torch.tensor([[True, True, True], [True, False, True]])
    _, exact = attention.reference(q, k, v, allowed, extras=True)
    _, found = attention(q, k, v, allowed, extras=True)
    for extras in (exact, found):
        row = extras["p"][0, 0, 1]
        assert row[1] == 0
        assert row[[0, 2]].isnan().all()


def test_a_rounded_softmax_is_off_by_what_is_asked() -> None:
    x = torch.tensor([[1.0, 3.0, -2.0, 7.0]], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([[0.3, -1.0, 2.0, 0.5]], dtype=torch.float64)
    size, body, found = 1e-4, Named(x, ("i", "j")), set()
    for seed in range(20):
        exact = softmax(body, ("j",), None, None, {"i": 1, "j": 4})
        weights = rounded(exact, body, ("j",), Rounding(size, size, seed)).tensor
        [got] = torch.autograd.grad(weights, x, g)
        p = exact.tensor.detach()
        for scale_sign, sum_sign in itertools.product((-1, 1), repeat=2):
            scale = torch.exp(scale_sign * size * (1 + x.detach().logsumexp(-1).abs()))
            total = scale * (p * g).sum() + sum_sign * size * (p * g).abs().sum()
            if torch.allclose(weights, p * scale, 1e-9, 0.0) and torch.allclose(
                got, p * scale * (g - total), 1e-9, 1e-12
            ):
                found.add((scale_sign, sum_sign))
                break
        else:
            raise AssertionError(f"seed {seed}: neither sign of either number")
    assert len(found) == 4


def test_two_equal_softmaxes_do_not_round_alike() -> None:
    """Else what a kernel leaves of their difference would be no rounding."""
    attention = attnspec.compile("attention a\nweight = softmax(score) - H * softmax(score * H)\n")
    q, k, v = (torch.ones(1, 1, 2, 2, dtype=torch.float64) for _ in range(3))
    bound = attention.bind(q, k, v)
    largest = 0.0
    for seed in range(8):
        found = evaluate(attention.spec, bound, rounding=Rounding(1e-7, 1e-7, seed)).output
        assert found is not None
        largest = max(largest, found.abs().max().item())
    assert 1e-8 < largest < 1e-5
