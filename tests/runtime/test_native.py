"""Passes in C++: what they compute, and when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime import native, native_build
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
