"""Passes in C++: what they compute, and when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime import kernel, native, native_build
from attnspec.runtime.typical import typical
from attnspec.runtime.verify import verify

pytestmark = pytest.mark.skipif(native_build.compiler() is None, reason="no C++ compiler")

# a bias by head, a table, a pair tensor, tables of rows, numbers of rows and columns, a sink, a
# gate, weights without a softmax, numbers instead of vectors, windows, lists, bounded logits
SPECS = (
    "alibi",
    "t5",
    "pair_bias",
    "shaw",
    "forgetting",
    "sink_window",
    "gated_elementwise",
    "sigmoid",
    "flow",
    "causal_documents",
    "softcap",
    "chunked",
)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls on a CPU run in no interpreter, whoever asks for it elsewhere."""
    monkeypatch.setattr(kernel, "_INTERPRETED", False)


@pytest.mark.parametrize("name", SPECS)
def test_output_and_gradients_hold(name: str) -> None:
    assert any(pairwise.native for pairwise, _ in attnspec.load(name)._generated.PASSES)
    report = verify(name, cases=6, seed=7, backend="native")
    assert report.ok, str(report)


def given(name: str, length: int, heads: int) -> dict[str, Any]:
    found = typical(attnspec.load(name).spec, length=length, batch=1, heads=heads)
    return {n: x for n, x in found.items() if isinstance(x, Tensor)}


def gradients(name: str, operands: dict[str, Any], backend: str) -> list[Tensor]:
    """Output, and the gradient of every operand."""
    leaves: dict[str, Any] = {
        n: x.clone().requires_grad_(x.is_floating_point()) for n, x in operands.items()
    }
    out = attnspec.load(name)(**leaves, backend=backend)
    upstream = torch.linspace(-1, 1, out.numel()).view(out.shape)
    floats = [x for x in leaves.values() if x.requires_grad]
    return [out, *torch.autograd.grad(out, floats, upstream)]


@pytest.mark.parametrize("name", ["alibi", "t5"])
def test_few_heads_are_shared_out_by_blocks_of_rows(name: str) -> None:
    operands = given(name, 700, heads=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)  # six parts of eight blocks
    try:
        found, again = (gradients(name, operands, "native") for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    for x, y, z in zip(found, again, gradients(name, operands, "cpu"), strict=True):
        assert torch.equal(x, y)
        torch.testing.assert_close(x, z, rtol=2e-4, atol=2e-4)


def test_operands_that_are_not_finite_are_for_pytorch() -> None:
    operands = given("causal", 40, heads=2)
    operands["v"][0, 0, 30] = float("inf")
    operands["k"][0, 1, 35] = float("nan")
    found, wanted = (gradients("causal", operands, backend) for backend in ("native", "cpu"))
    assert torch.isfinite(found[0][0, 0, :30]).all()
    for x, y in zip(found, wanted, strict=True):
        assert torch.equal(x.isnan(), y.isnan())
        torch.testing.assert_close(x, y, equal_nan=True)


def test_integers_beyond_32_bits_are_for_pytorch() -> None:
    operands = given("documents", 40, heads=1)
    far: dict[str, Any] = {
        n: x + 2**40 if x.dtype is torch.int64 else x for n, x in operands.items()
    }
    found, wanted = (attnspec.load("documents")(**x, backend="native") for x in (far, operands))
    torch.testing.assert_close(found, wanted)


def test_other_precisions_are_for_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("no library for this")

    monkeypatch.setattr(native, "library", refuse)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        q = torch.ones(1, 1, 3, 2, dtype=dtype)
        assert attnspec.load("full")(q, q, q, backend="native").dtype is dtype


def test_a_short_call_compiles_nothing_and_a_long_one_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[bool] = []

    def note(source: str, build: bool) -> None:
        asked.append(build)

    monkeypatch.setattr(native, "library", note)
    f = attnspec.load("full")
    q = torch.ones(1, 1, 128, 4)
    f(q, q, q)
    assert asked == [False]
    monkeypatch.setattr(native, "WORTHWHILE", 128 * 128 * 4)
    f(q, q, q)
    assert asked == [False, True]
    f(q, q, q, backend="cpu")
    assert asked == [False, True]


def test_a_library_is_made_once_and_found_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path))
    source = attnspec.load("full")._generated.PAIRWISE.native + "// once\n"
    assert not native_build.kept(source)
    assert native_build.library(source, build=True) is not None
    monkeypatch.setattr(native_build, "_libraries", {})
    monkeypatch.setattr(native_build, "compiled", None)  # as in a process that makes none
    assert native_build.kept(source)
    assert native_build.library(source, build=False) is not None


def test_without_a_compiler_pytorch_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "compiler", lambda: None)
    monkeypatch.setattr(native, "WORTHWHILE", 0)
    monkeypatch.setattr(native_build, "_libraries", {})
    f = attnspec.load("full")
    q = torch.randn(1, 2, 20, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(f(q, q, q), f(q, q, q, backend="cpu"))
    with pytest.raises(AttnError, match=r"C\+\+ compiler"):
        f(q, q, q, backend="native")


def test_what_the_compiler_refuses_is_said() -> None:
    with pytest.raises(native_build.CompileError, match="nonsense"):
        native_build.library("nonsense;", build=True)


def held(text: str, operands: dict[str, Any], **call: Any) -> None:
    """Native results, and gradients of q, are those of the tiles in PyTorch."""
    f = attnspec.compile(f"attention a\n{text}")
    assert any(pairwise.native for pairwise, _ in f._generated.PASSES)
    found = []
    for backend in ("native", "cpu"):
        q = operands["q"].clone().requires_grad_()
        out = f(**{**operands, "q": q}, **call, backend=backend)
        found.append((out, *torch.autograd.grad(out.square().sum(), q)))
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5, equal_nan=True)


def randoms(length: int = 40) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(1, 2, length, 8, generator=generator) for n in "qkv"}


def test_a_library_takes_its_constants_from_no_other() -> None:
    """Several products and leaves in several libraries of one process, in both orders."""
    texts = (
        "input u[h, i]\ninput w[h, j]\nscore = dot(q[i], k[j]) + u[i] * w[j]",
        "input w[h, j]\nscore = dot(q[i], k[j]) + dot(k[i], q[j]) + tanh(w[j])",
    )
    numbers = {"u": torch.linspace(-1, 1, 40).expand(2, 40), "w": torch.arange(40.0).expand(2, 40)}
    for at in (0, 1, 0):
        given = {n: x for n, x in numbers.items() if n == "w" or at == 0}
        held(texts[at], {**randoms(), **given})


def test_a_division_by_zero_that_does_not_count_does_no_harm() -> None:
    seg = torch.zeros(40, dtype=torch.int64)
    held("input seg[n]: int\nmask seg[j] == 0 or i % seg[j] == 0", {**randoms(), "seg": seg})
    held("input seg[n]: int\nmask seg[j] == 0 or i // seg[j] == 0", {**randoms(), "seg": seg})


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("input w: int\nmask j + w >= i and (i + j) % 3 != 0", {"w": 2**40}),
        (
            "input w[h]: int\nmask j + w >= i and (i + j) % 3 != 0",
            {"w": torch.tensor([2**31 - 1, 5])},
        ),
        ("mask (i * i * i) % 5 != 0", {"q_start": 100_000}),
        ("mask j <= i and (i + j) % 3 != 0", {"q_start": 2**31 + 5}),
    ],
)
def test_whole_numbers_that_leave_32_bits_are_for_pytorch(text: str, call: dict[str, Any]) -> None:
    held(text, {**randoms(), **call})


def test_integers_of_products_are_read_as_floats() -> None:
    x = torch.arange(40 * 3).view(1, 40, 3) % 7 - 3
    held(
        "axis c\ninput x[b, n, c]: int\nscore = dot(q[i], k[j]) + dot(x[i], x[j])",
        {**randoms(), "x": x},
    )


def test_what_the_compiler_refuses_pytorch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, build: bool) -> None:
        raise native_build.CompileError("no")

    monkeypatch.setattr(native, "library", refuse)
    f, q = attnspec.load("full"), torch.ones(1, 1, 4, 2)
    with pytest.warns(UserWarning, match="PyTorch runs"):
        f(q, q, q)
    with pytest.raises(native_build.CompileError):
        f(q, q, q, backend="native")


def test_negated_views_are_read_as_they_stand() -> None:
    f, given = attnspec.load("causal"), randoms()
    flipped = torch._neg_view(given["q"])
    found = f(flipped, given["k"], given["v"], backend="native")
    torch.testing.assert_close(found, f(-given["q"], given["k"], given["v"], backend="cpu"))


@pytest.mark.parametrize(
    "text",
    [
        "input bias[h, 7]\nscore = dot(q[i], k[j]) + tanh(bias[clamp(i - j + 3, 0, 6)])",
        "input bias[h, 7]\nmask 3 * (j - i) % 5 != 2\nscore = dot(q[i], k[j]) - log1p(abs(i - j))"
        " * sigmoid(bias[(2 + i - j) % 7])",
        "input bias[h, 7]\nmask j <= i\nweight = sigmoid(dot(q[i], k[j])) / (1 + i - j)"
        " + bias[where(2 * i > 2 * j + 5, 6, 1)]",
    ],
)
def test_what_a_diagonal_shares_is_worked_out_once(text: str) -> None:
    """In tiles of several blocks of rows, of fewer rows than keys and from another position on."""
    f = attnspec.compile(f"attention a\n{text}")
    assert "_diagonals(" in f._generated.PASSES[0][0].native
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 8, generator=generator) for n in (130, 300, 300))
    bias = torch.randn(2, 7, generator=generator)
    for start in (0, 170):
        found = []
        for backend in ("native", "cpu"):
            leaves = [x.clone().requires_grad_() for x in (q, k, v, bias)]
            out = f(*leaves[:3], bias=leaves[3], q_start=start, backend=backend)
            found.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
        for x, y in zip(*found, strict=True):
            torch.testing.assert_close(x, y, rtol=2e-4, atol=2e-4)


def test_what_no_diagonal_shares_is_each_pairs_own() -> None:
    text = (
        "score = dot(q[i], k[j]) + sin(0.1 * i * j) + cos(i + j) + log1p(abs(2 * i - j))"
        " + exp(where(2 * i > j, -1.0, 0.5))"
    )
    f = attnspec.compile(f"attention a\n{text}")
    assert "_diagonals(" not in f._generated.PASSES[0][0].native
    held(text, randoms())
