"""Verification finds what is wrong, makes it small, and says how to see it again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import attnspec
from attnspec.codegen.cli import main
from attnspec.runtime import cpu, native_build, verify_rule
from attnspec.runtime.verify import verify
from attnspec.runtime.verify_case import FILLS, LAYOUTS, Case, arguments
from attnspec.runtime.verify_compare import compare
from attnspec.runtime.verify_rule import hold

SIZES = (("b", 2), ("h", 4), ("heads", 2), ("i", 9), ("j", 12), ("d", 4), ("e", 3))
CASE = Case(SIZES, 3, 0, "float32", "contiguous", "normal", 1)


def test_a_right_kernel_passes() -> None:
    report = verify("causal", cases=20, seed=1, backend="cpu")
    assert report.ok, report
    assert report.cases == 20
    assert 0 < report.largest <= 1
    assert {"y", "lse", "d q", "d k", "d v"} == set(report.worst)
    assert str(report).startswith("causal: 20 cases on cpu: ok, largest error 0.")


def test_a_seed_repeats_its_cases() -> None:
    one, two = (verify("alibi", cases=5, seed=3, backend="cpu") for _ in range(2))
    assert one == two
    assert one != verify("alibi", cases=5, seed=4, backend="cpu")


def test_a_spec_without_a_kernel_says_so() -> None:
    report = verify("gated_delta", cases=5, seed=1)
    assert "no kernel" in str(report)
    assert report.cases == 0


def break_long_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the CPU forget a hundredth of the output where there are more than 20 keys."""
    right = cpu.forward

    def wrong(call: Any) -> tuple[Tensor, Tensor]:
        out, lse = right(call)
        return (out * 0.99 if call.columns > 20 else out), lse

    monkeypatch.setattr(cpu, "forward", wrong)


def test_a_wrong_kernel_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    break_long_rows(monkeypatch)
    report = verify("full", cases=50, seed=2, backend="cpu")
    assert not report.ok
    assert " b=1 h=1 heads=1 i=1 j=" in report.failure
    assert report.again == "attnspec verify full --cases 50 --seed 2 --backend cpu"
    assert report.again in str(report)


def test_the_command_fails_with_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments_ = ["verify", "full", "--cases", "30", "--seed", "2", "--backend", "cpu"]
    assert CliRunner().invoke(main, arguments_).exit_code == 0
    break_long_rows(monkeypatch)
    done = CliRunner().invoke(main, arguments_)
    assert done.exit_code == 1
    assert "run again: attnspec verify full --cases 30 --seed 2 --backend cpu" in done.output


def test_a_gradient_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cpu.backward

    def wrong(*args: Any) -> dict[str, Tensor]:
        found = right(*args)
        return {n: g * (1.001 if "slope" in n else 1) for n, g in found.items()}

    monkeypatch.setattr(cpu, "backward", wrong)
    report = verify("alibi", cases=10, seed=1, backend="cpu")
    assert "d slope" in report.failure


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_are_as_the_case_asks(fill: str, layout: str) -> None:
    attention = attnspec.compile("attention a\ninput keep[b, j]: bool\nmask keep[j] and j <= i")
    case = Case(SIZES, 3, 0, "float32", layout, fill, 1)
    call = arguments(attention, case, torch.device("cpu"))
    q, k, keep = call["q"], call["k"], call["keep"]
    assert q.shape == (2, 4, 9, 4)
    assert k.shape == (2, 2, 12, 4)
    assert q.requires_grad
    shared = (layout, fill) == ("expanded", "unseen_nan")  # unseen in one batch alone
    assert q.is_contiguous() == (layout == "contiguous" or shared)
    assert bool(keep.any()) == (fill != "empty")
    assert bool(q.isnan().any()) == (fill == "nan_query")
    assert bool(k.isnan().any()) == (fill == "unseen_nan")
    assert bool((q == 0).all()) == (fill == "zeros")
    assert not hold(attention, case, "cpu").problems


def test_a_result_that_nobody_wrote_is_nan() -> None:
    with verify_rule.poisoned():
        assert torch.empty(3).isnan().all()


@pytest.mark.parametrize(
    ("got", "right"),
    [([1.0, 2.0], True), ([1.0, 2.1], False), ([1.0, float("nan")], False), ([1.0, 2.0001], False)],
)
def test_one_wrong_element_fails(got: list[float], right: bool) -> None:
    want = torch.tensor([1.0, 2.0], dtype=torch.float64)
    plain = [want.float()]
    _, text = compare(torch.tensor(got), plain, want, torch.float32, None, 0.0, False)
    assert (text == "") == right


@pytest.mark.parametrize(("plain", "right"), [(float("nan"), True), (1.0, False)])
def test_a_gradient_that_overflows_in_plain_pytorch_may_overflow(plain: float, right: bool) -> None:
    want, shift = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.zeros(2)
    got, other = torch.tensor([float("nan"), 2.0]), torch.tensor([plain, 2.0])
    _, text = compare(got, [other], want, torch.float32, shift, 0.0, False)
    assert (text == "") == right


def test_a_row_without_a_pair_must_be_exactly_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cpu.forward

    def wrong(call: Any) -> tuple[Tensor, Tensor]:
        out, lse = right(call)
        return torch.where(lse.isneginf()[..., None], 1e-9, out), lse

    monkeypatch.setattr(cpu, "forward", wrong)
    attention = attnspec.compile("attention a\nmask j < i")
    case = Case(SIZES, 0, 5, "float32", "contiguous", "normal", 1)
    assert hold(attention, case, "cpu").problems == ("y: not 0 in a row without a pair",)


def test_what_a_rounding_between_two_passes_changes_is_allowed() -> None:
    attention = attnspec.compile(
        "attention a\nparam slope = 0.7\nmask 3 * j < i + 5\nweight = softmax(score, over=i)\n"
        "score = 2 * dot(q[i], k[j]) - norm2(q[i]) - norm2(k[j]) + slope * (i - j)"
    )
    sizes = (("b", 1), ("h", 2), ("heads", 2), ("i", 129), ("j", 5), ("d", 16), ("e", 16))
    for seed in range(12):
        case = Case(sizes, 4, 0, "float32", "contiguous", "normal", seed)
        assert not hold(attention, case, "cpu").problems


def test_gradients_of_two_passes_that_cancel_each_other_are_rounded_before() -> None:
    attention = attnspec.compile(
        "attention a\nmask j == i\nlet won = softmax(score, over=i) + 0.01\n"
        "score = tanh(dot(q[i], k[j]))\nweight = won / max(sum(j, won), 0.001)\n"
        "output = none\nreturn map[b, h, i, j] = weight"
    )
    sizes = tuple((name, 9 if name == "j" else size) for name, size in SIZES)
    for seed in range(8):
        case = Case(sizes, 0, 0, "bfloat16", "contiguous", "normal", seed)
        assert not hold(attention, case, "cpu").problems


@pytest.mark.skipif(native_build.compiler() is None, reason="no C++ compiler")
def test_numbers_below_the_normal_ones_may_be_nothing() -> None:
    """The decay of 66 tokens, exp(-88), after which a norm multiplies by 1000."""
    sizes = (("b", 1), ("h", 6), ("heads", 2), ("i", 1), ("j", 1), ("d", 2), ("e", 2))
    case = Case(sizes, 66, 0, "float32", "contiguous", "normal", 0)
    outcome = hold(attnspec.load("decayed_features"), case, "native")
    assert not outcome.problems
    assert torch.tensor(1e-40) > 0  # here they are something
