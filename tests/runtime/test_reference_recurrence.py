"""The reference against hand-written loops: recurrences over tokens and over other axes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from tests.runtime.conftest import agree, random_leaf, run, same
from torch import Tensor

B, H, T, D, E = 2, 2, 7, 4, 3


def qkv() -> dict[str, Tensor]:
    return {
        "q": random_leaf(B, H, T, D),
        "k": random_leaf(B, H, T, D),
        "v": random_leaf(B, H, T, E),
    }


def unit(*shape: int) -> Tensor:
    """Numbers in (0, 1) with gradient."""
    return torch.rand(*shape, dtype=torch.float64).mul(0.8).add(0.1).requires_grad_()


def outer(x: Tensor, y: Tensor) -> Tensor:
    return x[..., :, None] * y[..., None, :]


def zeros(*shape: int) -> Tensor:
    return torch.zeros(B, H, *shape, dtype=torch.float64)


def read(x: Tensor, state: Tensor) -> Tensor:
    """x @ state."""
    return (x[..., None, :] @ state)[..., 0, :]


def test_gated_linear_attention() -> None:
    def loop(q: Tensor, k: Tensor, v: Tensor, loga: Tensor, r: Tensor) -> Tensor:
        state, out = zeros(D, E), []
        for t in range(T):
            state = loga[:, :, t].exp()[..., None] * state + outer(k[:, :, t], v[:, :, t])
            out.append(read(q[:, :, t], state) / math.sqrt(D))
        return F.rms_norm(torch.stack(out, 2), (E,), eps=1e-6) * F.silu(r)

    same(
        "input loga[b, h, t, d] where loga <= 0\nquery r[e]\nstate S[d, e]\n"
        "step S[t] = exp(loga[t]) * S[t - 1] + outer(k[t], v[t])\n"
        "output = rmsnorm(q[t] @ S / sqrt(D)) * silu(r[t])",
        loop,
        **qkv(),
        loga=unit(B, H, T, D).detach().log().requires_grad_(),
        r=random_leaf(B, H, T, E),
    )


def test_retention_is_a_pairwise_decay() -> None:
    x = qkv()
    gamma = torch.tensor([0.9, 0.7], dtype=torch.float64)

    def parallel(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor) -> Tensor:
        gap = torch.arange(T)[:, None] - torch.arange(T)
        return (q @ k.mT * (gamma[:, None, None] ** gap).tril()) @ v

    same(
        "param gamma[h] = 0.9\nstate S[d, e]\n"
        "step S[t] = gamma * S[t - 1] + outer(k[t], v[t])\noutput = q[t] @ S",
        parallel,
        **x,
        gamma=gamma.requires_grad_(),
    )
    same(
        "input gamma[h] where gamma > 0\nmask j <= i\nweight = dot(q[i], k[j]) * gamma ** (i - j)",
        parallel,
        **x,
        gamma=gamma,
    )


def test_gated_delta_rule_with_convolution_and_resets() -> None:
    def loop(
        q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor, cw: Tensor, reset: Tensor
    ) -> Tensor:
        padded = F.pad(k, (0, 0, 2, 0))
        kc = sum(cw[:, u, None] * padded[:, :, 2 - u : 2 - u + T] for u in range(3))
        assert isinstance(kc, Tensor)
        kc = F.normalize(F.silu(kc), dim=-1)
        state, out = zeros(D, E), []
        for t in range(T):
            kept = torch.where(reset[:, t, None], 0, alpha[:, :, t])[..., None, None] * state
            error = read(kc[:, :, t], kept) - v[:, :, t]
            state = kept - beta[:, :, t, None, None] * outer(kc[:, :, t], error)
            out.append(read(F.normalize(q[:, :, t], dim=-1), state))
        return torch.stack(out, 2)

    same(
        "input alpha[b, h, t] where 0 < alpha <= 1\ninput beta[b, h, t] where 0 <= beta <= 1\n"
        "param cw[h, 3, d] = 0\naxis u = 3\ninput reset[b, t]: bool\n"
        "let kc[t] = normalize(silu(sum(u, cw[u] * k[t - u, pad=0])))\nstate S[d, e]\n"
        "let P[t] = where(reset[t], 0, alpha[t]) * S[t - 1]\n"
        "step S[t] = P - beta[t] * outer(kc, kc @ P - v[t])\n"
        "output = normalize(q[t]) @ S",
        loop,
        **qkv(),
        alpha=unit(B, H, T),
        beta=unit(B, H, T),
        cw=random_leaf(H, 3, D),
        reset=torch.rand(B, T) < 0.3,
    )


def test_titans_gradient_of_the_inner_loss() -> None:
    x = qkv()
    gates = {name: unit(B, H, T) for name in ("theta", "eta", "alpha")}
    start = random_leaf(B, H, D, E)

    def loop(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        theta: Tensor,
        eta: Tensor,
        alpha: Tensor,
        M0: Tensor,  # noqa: N803
    ) -> tuple[Tensor, Tensor]:
        memory, momentum, out = M0, zeros(D, E), []
        for t in range(T):
            with torch.enable_grad():
                loss = (read(k[:, :, t], memory) - v[:, :, t]).square().sum()
                [slope] = torch.autograd.grad(loss, memory, create_graph=True)
            momentum = eta[:, :, t, None, None] * momentum - theta[:, :, t, None, None] * slope
            memory = (1 - alpha[:, :, t, None, None]) * memory + momentum
            out.append(read(q[:, :, t], memory))
        return torch.stack(out, 2), memory

    got = run(
        "input theta[b, h, t] where theta >= 0\ninput eta[b, h, t] where 0 <= eta <= 1\n"
        "input alpha[b, h, t] where 0 <= alpha <= 1\ninput M0[b, h, d, e]\n"
        "state S[d, e]\nstate Mem[d, e] = M0\n"
        "step S[t] = eta[t] * S[t - 1] - theta[t] * 2 * outer(k[t], k[t] @ Mem[t - 1] - v[t])\n"
        "step Mem[t] = (1 - alpha[t]) * Mem[t - 1] + S[t]\n"
        "output = q[t] @ Mem\nreturn last[b, h, d, e] = Mem",
        **x,
        **gates,
        M0=start,
    )
    want, last = loop(**x, **gates, M0=start)
    leaves = [*x.values(), *gates.values(), start]
    assert got.output is not None
    agree(got.output, want, leaves)
    agree(got.extras["last"], last, leaves)


def test_gradient_taken_at_the_start_of_a_chunk() -> None:
    def loop(q: Tensor, k: Tensor, v: Tensor, theta: Tensor) -> Tensor:
        memory, start, out = zeros(D, E), zeros(D, E), []
        for t in range(T):
            start = memory if t % 3 == 0 else start
            error = read(k[:, :, t], start) - v[:, :, t]
            memory = memory - 2 * theta[:, :, t, None, None] * outer(k[:, :, t], error)
            out.append(read(q[:, :, t], memory))
        return torch.stack(out, 2)

    same(
        "const C: int = 3\ninput theta[b, h, t]\nstate Cm[d, e]\nstate Mem[d, e]\n"
        "step Cm[t] = where(t % C == 0, Mem[t - 1], Cm[t - 1])\n"
        "step Mem[t] = Mem[t - 1] - theta[t] * 2 * outer(k[t], k[t] @ Cm[t] - v[t])\n"
        "output = q[t] @ Mem",
        loop,
        **qkv(),
        theta=unit(B, H, T),
    )


def test_gated_slot_attention() -> None:
    def loop(q: Tensor, k: Tensor, v: Tensor, a: Tensor) -> Tensor:
        keys, values, out = zeros(5, D), zeros(5, E), []
        for t in range(T):
            g = a[:, :, t, :, None]
            keys = g * keys + (1 - g) * k[:, :, t, None]
            values = g * values + (1 - g) * v[:, :, t, None]
            weight = (keys @ q[:, :, t, :, None])[..., 0].softmax(-1)
            out.append(read(weight, values))
        return torch.stack(out, 2)

    same(
        "axis m = 5\ninput a[b, h, t, m] where 0 < a < 1\nstate K[m, d]\nstate V[m, e]\n"
        "step K[t] = a[t] * K[t - 1] + (1 - a[t]) * k[t]\n"
        "step V[t] = a[t] * V[t - 1] + (1 - a[t]) * v[t]\n"
        "output = softmax(K @ q[t], over=m) @ V",
        loop,
        **qkv(),
        a=unit(B, H, T, 5),
    )


def test_rotating_decay_is_a_complex_state() -> None:
    def loop(q: Tensor, k: Tensor, v: Tensor, mag: Tensor, ang: Tensor) -> Tensor:
        decay = torch.polar(mag, ang)
        state, out = torch.zeros(B, H, D, E, dtype=torch.complex128), []
        for t in range(T):
            state = decay[:, :, t, :, None] * state + outer(k[:, :, t], v[:, :, t])
            out.append(read(q[:, :, t], state.real))
        return torch.stack(out, 2)

    same(
        "input mag[b, h, t, d] where 0 < mag <= 1\ninput ang[b, h, t, d]\n"
        "state R[d, e]\nstate I[d, e]\n"
        "step R[t] = mag[t] * (cos(ang[t]) * R[t - 1] - sin(ang[t]) * I[t - 1])"
        " + outer(k[t], v[t])\n"
        "step I[t] = mag[t] * (sin(ang[t]) * R[t - 1] + cos(ang[t]) * I[t - 1])\n"
        "output = q[t] @ R",
        loop,
        **qkv(),
        mag=unit(B, H, T, D),
        ang=random_leaf(B, H, T, D),
    )


def test_both_directions() -> None:
    def loop(q: Tensor, k: Tensor, v: Tensor, a: Tensor) -> Tensor:
        def scan(order: list[int]) -> Tensor:
            state, out = zeros(D, E), {}
            for t in order:
                state = a[:, :, t, None, None] * state + outer(k[:, :, t], v[:, :, t])
                out[t] = read(q[:, :, t], state)
            return torch.stack([out[t] for t in range(T)], 2)

        return (scan(list(range(T))) + scan(list(range(T - 1, -1, -1)))) / 2

    same(
        "input a[b, h, t]\nstate F[d, e]\nstate R[d, e] reverse\n"
        "step F[t] = a[t] * F[t - 1] + outer(k[t], v[t])\n"
        "step R[t] = a[t] * R[t + 1] + outer(k[t], v[t])\n"
        "output = (q[t] @ F + q[t] @ R) / 2",
        loop,
        **qkv(),
        a=unit(B, H, T),
    )


def test_last_state_in_both_directions() -> None:
    x = random_leaf(B, H, T)
    outputs = run(
        "input x[b, h, t]\noutput = none\nstate F = 1\nstate R reverse = 2\n"
        "step F[t] = F[t - 1] / 2 + x[t]\nstep R[t] = R[t + 1] / 2 + x[t]\n"
        "return f[b, h] = F\nreturn r[b, h] = R\nreturn old[b, h, t] = F[t - 1]",
        x=x,
    )
    weight = 0.5 ** torch.arange(T, dtype=torch.float64)
    agree(outputs.extras["f"], (x * weight.flip(0)).sum(-1) + 0.5**T, [x])
    agree(outputs.extras["r"], (x * weight).sum(-1) + 2 * 0.5**T, [x])
    assert (outputs.extras["old"][..., 0] == 1).all()
    agree(outputs.extras["old"][..., 1], x[..., 0] + 0.5, [x])


def test_wkv_and_its_pairwise_form() -> None:
    def loop(q: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
        num, den, out = zeros(E), zeros(E), []
        for t in range(T):
            now = (u + k[:, :, t]).exp()
            out.append((num + now * v[:, :, t]) / (den + now))
            num = (-w.exp()).exp() * num + k[:, :, t].exp() * v[:, :, t]
            den = (-w.exp()).exp() * den + k[:, :, t].exp()
        return torch.sigmoid(q) * torch.stack(out, 2)

    x = {name: random_leaf(B, H, T, E) for name in ("q", "k", "v")}
    x |= {"w": random_leaf(H, E), "u": random_leaf(H, E)}
    head = "query q[e]\nkey k[e]\nparam w[h, e] = 1\nparam u[h, e] = 0\n"
    same(
        head + "state num[e]\nstate den[e]\n"
        "step num[t] = exp(-exp(w)) * num[t - 1] + exp(k[t]) * v[t]\n"
        "step den[t] = exp(-exp(w)) * den[t - 1] + exp(k[t])\n"
        "let wkv[t] = (num[t - 1] + exp(u + k[t]) * v[t]) / (den[t - 1] + exp(u + k[t]))\n"
        "output = sigmoid(q[t]) * wkv",
        loop,
        **x,
    )
    same(
        head + "mask j <= i\nscore = where(i == j, u + k[j], k[j] - (i - 1 - j) * exp(w))\n"
        "gate = sigmoid(q[i])",
        loop,
        **x,
    )


def test_sinkhorn_iterations() -> None:
    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        plan = (q @ k.mT / math.sqrt(D)).exp()
        for _ in range(5):
            plan = plan / plan.sum(-1, keepdim=True)
            plan = plan / plan.sum(-2, keepdim=True)
        return plan @ v

    same(
        "axis s = 5\nstate f[i] over s\nstate g[j] over s\n"
        "step f[s] = -logsumexp(j, score + g[s - 1])\n"
        "step g[s] = -logsumexp(i, score + f[s])\nweight = exp(score + f[i] + g[j])",
        formula,
        **qkv(),
    )


def test_slot_attention_iterations() -> None:
    x = qkv()
    start = random_leaf(B, H, 5, E)
    same(
        "axis s = 3\ninput s0[b, h, i, e]\nkey k[e]\nstate u[i, e] over s = s0\n"
        "let a[i, j] = softmax(dot(u[s - 1, i], k[j]) / sqrt(E), over=i) + 1e-8\n"
        "step u[s] = sum(j, a * v[j]) / sum(j, a)\noutput = u",
        _slots,
        k=random_leaf(B, H, T, E),
        v=x["v"],
        s0=start,
    )


def _slots(k: Tensor, v: Tensor, s0: Tensor) -> Tensor:
    u = s0
    for _ in range(3):
        a = (u @ k.mT / math.sqrt(E)).softmax(-2) + 1e-8
        u = a @ v / a.sum(-1, keepdim=True)
    return u


def test_monotonic_alignment() -> None:
    def loop(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        p = torch.sigmoid(q @ k.mT / math.sqrt(D))
        before = F.one_hot(torch.tensor(0), T).double().expand(B, H, T)
        out = []
        for i in range(T):
            rows = []
            for j in range(T):
                reach = torch.zeros(B, H, dtype=torch.float64)
                for u in range(j + 1):
                    reach = reach + before[..., u] * (1 - p[:, :, i, u:j]).prod(-1)
                rows.append(p[:, :, i, j] * reach)
            before = torch.stack(rows, -1)
            out.append(before)
        return torch.stack(out, 2) @ v

    same(
        "index u = j\nindex l = j\nstate a[j] over i = where(j == 0, 1, 0)\n"
        "let p[i, j] = sigmoid(score)\n"
        "step a[i] = p[i, j] * sum(u, a[i - 1, u] * prod(l, 1 - p[i, l], where=u <= l < j),"
        " where=u <= j)\n"
        "output = sum(j, a[i, j] * v[j])",
        loop,
        **qkv(),
    )


def test_heavy_hitters_are_kept() -> None:
    n, recent, heavy = 12, 3, 2

    def loop(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The cache of every batch and head, step by step, as lists of positions."""
        score = q @ k.mT / math.sqrt(D)
        rows = []
        for b in range(B):
            for h in range(H):
                cache: list[int] = []
                total = [0.0] * n
                for i in range(n):
                    cache.append(i)
                    weight = score[b, h, i, cache].softmax(-1)
                    rows.append(weight @ v[b, h, cache])
                    for place, j in enumerate(cache):
                        total[j] += float(weight[place].detach())
                    old = sorted(
                        (j for j in cache if i - j >= recent), key=lambda j: (-total[j], j)
                    )
                    cache = sorted([*old[:heavy], *(j for j in cache if i - j < recent)])
        return torch.stack(rows).reshape(B, H, n, E)

    same(
        f"const recent: int = {recent}\nconst heavy: int = {heavy}\nmask j <= i\n"
        "state acc[j] over i = 0\nstate alive[j] over i = true\n"
        "let P[i, j] = softmax(dot(q[i], k[j]) / sqrt(D), where=alive[i - 1])\n"
        "step acc[i] = acc[i - 1] + P\n"
        "step alive[i] = alive[i - 1] and (i - j < recent or"
        " topk(j, acc, heavy, where=alive[i - 1] and i - j >= recent))\n"
        "output = sum(j, P * v[j])",
        loop,
        q=random_leaf(B, H, n, D),
        k=random_leaf(B, H, n, D),
        v=random_leaf(B, H, n, E),
    )


def test_linear_attention_by_cumulative_sums() -> None:
    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        top = torch.einsum("bhid,bhide->bhie", q, outer(k, v).cumsum(2))
        return top / (q * k.cumsum(2)).sum(-1, keepdim=True)

    same(
        "let phi(x) = elu(x) + 1\nlet z[n] = cumsum(n, phi(k[n]))\nmask j <= i\n"
        "weight = dot(phi(q[i]), phi(k[j])) / dot(phi(q[i]), z[i])",
        formula,
        **qkv(),
    )


def test_memory_of_two_layers_learns_by_gradient_descent() -> None:
    width = 3
    x = {name: value.detach().mul(0.5).requires_grad_() for name, value in qkv().items()}
    a0, b0 = random_leaf(B, H, D, width), random_leaf(B, H, width, E)

    def loop(q: Tensor, k: Tensor, v: Tensor, theta: Tensor, a0: Tensor, b0: Tensor) -> Tensor:
        one, two, out = a0, b0, []
        for t in range(T):
            guess = read(F.silu(read(k[:, :, t], one)), two)
            loss = (guess - v[:, :, t]).square().sum()
            slopes = torch.autograd.grad(loss, (one, two), create_graph=True)
            rate = theta[:, :, t, None, None]
            one, two = one - rate * slopes[0], two - rate * slopes[1]
            out.append(read(F.silu(read(q[:, :, t], one)), two))
        return torch.stack(out, 2)

    same(
        f"axis f = {width}\ninput theta[b, h, t] where theta >= 0\n"
        "input a0[b, h, d, f]\ninput b0[b, h, f, e]\n"
        "state W1[d, f] = a0\nstate W2[f, e] = b0\n"
        "let z[t] = k[t] @ W1[t - 1]\nlet y[t] = silu(z)\nlet err[t] = y @ W2[t - 1] - v[t]\n"
        "let back[t] = (W2[t - 1] @ err) * sigmoid(z) * (1 + z * (1 - sigmoid(z)))\n"
        "step W1[t] = W1[t - 1] - 2 * theta[t] * outer(k[t], back)\n"
        "step W2[t] = W2[t - 1] - 2 * theta[t] * outer(y, err)\n"
        "output = silu(q[t] @ W1) @ W2",
        loop,
        **x,
        theta=unit(B, H, T).detach().mul(0.1).requires_grad_(),
        a0=a0,
        b0=b0,
    )
