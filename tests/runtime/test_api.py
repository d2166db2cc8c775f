"""The public names: load, compile, the callable, its reference and its module."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.dsl import analysis
from attnspec.dsl.ast import Spec

ALIBI = """attention mine
param slope[h] = 2 ** (-8 * (h + 1) / H)
input reach: int = 4 where reach > 0
mask i - reach < j <= i
score = dot(q[i], k[j]) / sqrt(D) - slope * (i - j)
"""


def qkv(*, heads: int = 4, key_heads: int = 2, m: int = 7, n: int = 9) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    sizes = ((heads, m, 6), (key_heads, n, 6), (key_heads, n, 5))
    return tuple(torch.randn(2, *s, generator=generator) for s in sizes)


def plain(q: Tensor, k: Tensor, v: Tensor, slope: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    score = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 - slope[:, None, None] * (i - j)
    score = score.masked_fill(~((i - reach < j) & (j <= i)), float("-inf"))
    return score.softmax(-1) @ v, score.logsumexp(-1)


def test_a_call_is_the_equation() -> None:
    f = attnspec.compile(ALIBI, name="mine")
    q, k, v = qkv()
    slope = torch.rand(4)
    wanted, lse = plain(q, k, v, slope, 3)
    y, extras = f(q, k, v, slope=slope, reach=3, extras=True)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(extras["lse"], lse)
    torch.testing.assert_close(f(q, k, v, slope, 3), wanted)
    exact = f.reference(q, k, v, slope=slope, reach=3)
    assert exact.dtype is torch.float64
    torch.testing.assert_close(exact.float(), wanted)
    torch.testing.assert_close(f(q, k, v, slope, 3, backend="dense"), wanted)


def test_initial_values_stand_in_for_params() -> None:
    f = attnspec.compile(ALIBI)
    q, k, v = qkv()
    slope = 2.0 ** (-8 * (torch.arange(4) + 1) / 4)
    torch.testing.assert_close(f(q, k, v), plain(q, k, v, slope, 4)[0])
    torch.testing.assert_close(f.reference(q, k, v).float(), plain(q, k, v, slope, 4)[0])


def test_offsets_continue_a_sequence() -> None:
    f = attnspec.load("causal")
    q, k, v = qkv(m=9)
    torch.testing.assert_close(f(q[:, :, 6:], k, v, q_start=6), f(q, k, v)[:, :, 6:])


@pytest.mark.parametrize("collects", [True, False])
@pytest.mark.parametrize("text", ["score = dot(q[i], k[j]) + 0.3", "score = dot(q[i], k[q])"])
def test_garbage_is_looked_for_after_compiling_as_before(
    text: str, collects: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path))
    whole, during = analysis.analyze, []

    def analyze(spec: Spec) -> analysis.Facts:
        during.append(gc.isenabled())
        return whole(spec)

    monkeypatch.setattr(analysis, "analyze", analyze)
    before = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        with contextlib.suppress(attnspec.AttnError):
            attnspec.compile(f"attention a\n{text}")
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()
    assert not any(during)


def test_what_was_read_proved_planned_and_generated() -> None:
    f = attnspec.load("causal")
    assert f.spec.name == "causal"
    assert f.facts.rows.tight
    assert f.plan.fused
    assert "def attend(" in f.source
    assert f.source == attnspec.load("causal").source


def test_a_path_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.attn"
    path.write_text(ALIBI)
    assert attnspec.load(str(path)).spec.name == "mine"


def test_a_module_holds_the_params() -> None:
    f = attnspec.compile(ALIBI)
    layer = f.module(heads=4)
    assert [(n, tuple(p.shape)) for n, p in layer.named_parameters()] == [("slope", (4,))]
    held = layer.get_parameter("slope")
    torch.testing.assert_close(held.detach(), 2.0 ** (-8 * (torch.arange(4.0) + 1) / 4))
    q, k, v = qkv()
    y = layer(q, k, v, reach=2)
    assert isinstance(y, Tensor)
    y.square().sum().backward()
    slope = held.detach().clone().requires_grad_()
    plain(q, k, v, slope, 2)[0].square().sum().backward()
    assert held.grad is not None
    torch.testing.assert_close(held.grad, slope.grad, rtol=1e-4, atol=1e-5)
    assert repr(layer) == "AttentionModule(mine)"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, "module: param `slope` needs heads="),
        ({"head": 4}, "module: unknown size `head`; it takes heads, dim, value_dim, batch"),
        ({"heads": 0}, "module: expected `heads` a positive number, got 0"),
    ],
)
def test_sizes_of_a_module(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(attnspec.AttnError, match=f"^{message}$"):
        attnspec.compile(ALIBI).module(**sizes)


def test_what_no_kernel_covers_runs_densely_and_says_so() -> None:
    f = attnspec.load("gla")
    assert not f.plan.fused
    assert f.plan.stages[0].why == "a recurrence"
    assert f.source == ""
    with pytest.raises(attnspec.AttnError, match="no kernel covers `gla` yet"):
        f(backend="triton")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            {"backend": "gpu"},
            '"triton", "cpu", "native", "blocked" or "dense", got \'gpu\'',
        ),
        ({"reach": 0}, "reach > 0"),
        ({"slope": torch.ones(3)}, "slope"),
        ({"slop": torch.ones(4)}, "slop"),
    ],
)
def test_bad_calls_name_the_argument(call: dict[str, Any], message: str) -> None:
    q, k, v = qkv()
    with pytest.raises(attnspec.AttnError) as error:
        attnspec.compile(ALIBI)(q, k, v, **call)
    assert message in str(error.value)


def test_triton_needs_a_gpu_or_the_interpreter() -> None:
    with pytest.raises(attnspec.AttnError, match="TRITON_INTERPRET=1"):
        attnspec.load("causal")(*qkv(), backend="triton")


def test_a_name_that_is_another() -> None:
    with pytest.raises(attnspec.AttnError, match="expected a spec named `other`, got `mine`"):
        attnspec.compile(ALIBI, name="other")


def test_rows_without_a_pair() -> None:
    f = attnspec.load("padded")
    q, k, v = (x.requires_grad_() for x in qkv())
    keep = torch.ones(2, 9, dtype=torch.bool)
    keep[1] = False
    y, extras = f(q, k, v, keep=keep, extras=True)
    assert (y[1] == 0).all()
    assert (extras["lse"][1] == float("-inf")).all()
    grads = torch.autograd.grad(y.sum(), [q, k, v])
    assert all((g[1] == 0).all() and g[0].abs().sum() > 0 for g in grads)


def test_a_masked_nan_goes_nowhere() -> None:
    f = attnspec.load("padded")
    q, k, v = qkv()
    keep = torch.ones(2, 9, dtype=torch.bool)
    keep[:, 6:] = False
    clean = f(q, k, v, keep=keep)
    k, v = k.clone(), v.clone()
    k[:, :, 6:], v[:, :, 6:] = float("nan"), float("inf")
    inputs = [x.requires_grad_() for x in (q, k, v)]
    y = f(*inputs, keep=keep)
    torch.testing.assert_close(y, clean)
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), inputs[:1]))
    v = v.detach().clone()
    v[:, :, 2, 0] = float("nan")
    assert f(q, k, v, keep=keep)[..., 0].isnan().all()


def test_memory_is_linear_in_the_length() -> None:
    """At 16 times the length a M x N tensor of one head would take a GiB."""
    f = attnspec.load("sliding_window")
    q, k, v = (torch.zeros(1, 1, 16384, 8, requires_grad=True) for _ in range(3))
    with torch.profiler.profile(profile_memory=True) as record:
        f(q, k, v).sum().backward()
    largest = max(abs(e.self_device_memory_usage or e.cpu_memory_usage) for e in record.events())
    assert largest < 64 << 20


def test_rope_of_odd_channels() -> None:
    f = attnspec.load("rope")
    x = torch.randn(1, 1, 4, 5)
    for call in (f, f.reference):
        with pytest.raises(attnspec.AttnError, match="splits into 1 even groups, got 5 channels"):
            call(x, x, x)
