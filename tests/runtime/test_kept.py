"""What a mask's inputs decide is worked out again when they change, and only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime import blocks, cpu_tiles, kept, launch
from attnspec.runtime.aot import call_of
from attnspec.runtime.memo import Memo
from attnspec.runtime.problem import Problem

LENGTH = 9


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows whenever the columns that rows visit are worked out on the CPU."""
    monkeypatch.setattr(kept, "_KEPT", Memo())
    seen: list[str] = []
    whole = cpu_tiles._visits

    def counted(*args: Any) -> Any:
        seen.append("visits")
        return whole(*args)

    monkeypatch.setattr(cpu_tiles, "_visits", counted)
    return seen


def tensors() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(1, 2, LENGTH, 4, generator=generator) for n in ("q", "k", "v")}


def documents(*, of: int) -> Tensor:
    return torch.arange(LENGTH)[None] // of


def right(given: dict[str, Any]) -> bool:
    """Whether the call gives what the definition does."""
    attention = attnspec.load("documents")
    expected = attention.reference(**given)
    return torch.allclose(attention(**given).double(), expected, rtol=1e-4, atol=1e-5)


def test_lists_are_built_once_for_inputs_that_stay(built: list[str]) -> None:
    given = {**tensors(), "doc": documents(of=3)}
    given["q"].requires_grad_()
    for _ in range(3):
        attnspec.load("documents")(**given).sum().backward()
        given["v"] = given["v"] + 1.0
    assert len(built) == 1
    attnspec.load("documents")(**{**given, "q_start": 1, "k_start": 1})
    assert len(built) == 2


def write(doc: Tensor) -> None:
    doc[:, 4:] += 5


def write_a_view(doc: Tensor) -> None:
    doc.view(-1)[2:5].fill_(7)


def write_through_numpy(doc: Tensor) -> None:
    doc.numpy()[:, 3:] = 8  # no version tells


def write_through_data(doc: Tensor) -> None:
    doc.data.copy_(documents(of=2))  # nor here


def write_another(doc: Tensor) -> None:
    doc.data = documents(of=4)


@pytest.mark.parametrize(
    "change", [write, write_a_view, write_through_numpy, write_through_data, write_another]
)
def test_a_change_in_place_is_noticed(change: Callable[[Tensor], None], built: list[str]) -> None:
    given = {**tensors(), "doc": documents(of=3)}
    assert right(given)
    change(given["doc"])
    assert right(given)
    assert len(built) == 2


def test_freed_memory_that_is_used_again_is_another_tensors() -> None:
    for turn in range(30):
        doc = documents(of=turn % 4 + 1)
        assert right({**tensors(), "doc": doc})
        del doc


@pytest.fixture
def uncompared(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where values are not compared."""
    monkeypatch.setattr(torch, "equal", lambda *tensors: True)


@pytest.mark.parametrize("change", [write, write_a_view, write_another])
def test_a_version_or_other_memory_is_enough(
    change: Callable[[Tensor], None], built: list[str], uncompared: None
) -> None:
    given = {**tensors(), "doc": documents(of=3)}
    attnspec.load("documents")(**given)
    change(given["doc"])
    assert right(given)
    assert len(built) == 2


def test_the_owner_of_memory_is_enough(built: list[str], uncompared: None) -> None:
    """Freed and used again, at the same place and the same version."""
    memory = documents(of=1).numpy()
    for turn in range(3):
        memory[:] = documents(of=turn + 2).numpy()
        assert right({**tensors(), "doc": torch.from_numpy(memory)})
    assert len(built) == 3


def test_strides_and_the_place_in_memory_count(built: list[str]) -> None:
    many = torch.stack([documents(of=2), documents(of=3)])
    for doc in (many[0], many[1], many.transpose(0, 1)[:, 0]):
        assert right({**tensors(), "doc": doc})
    assert len(built) == 2  # the last one is the first again


def test_inference_tensors_have_no_version(built: list[str]) -> None:
    with torch.inference_mode():
        given = {**tensors(), "doc": documents(of=3)}
        assert right(given)
        given["doc"][:, 4:] += 5
        assert right(given)
    assert len(built) == 2


def test_large_tensors_are_not_copied(built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "COPIED", 4)
    given = {**tensors(), "doc": documents(of=3)}
    assert right(given)
    assert right(given)
    assert len(built) == 2


def test_no_more_is_kept_than_a_few(built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_KEPT", Memo(3))
    docs = [documents(of=n) for n in range(1, 9)]
    for doc in docs:
        assert right({**tensors(), "doc": doc})
    assert len(kept._KEPT) <= 3
    assert len(built) == len(docs)


def test_either_of_a_pair_is_compared(built: list[str]) -> None:
    for side in range(2):
        pair = documents(of=3), documents(of=3)
        given = {**tensors(), "doc": pair}
        assert right(given)
        write_through_numpy(pair[side])
        assert right(given)
    assert len(built) == 4


def test_a_memory_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**tensors(), "doc": documents(of=3)}
    assert right(given)
    compared: list[Tensor] = []

    def equal(x: Tensor, y: Tensor) -> bool:
        compared.append(x)
        return True

    monkeypatch.setattr(torch, "equal", equal)
    attnspec.load("documents")(**given)
    assert len(compared) == 1


def visited(call: Problem, *what: Any) -> dict[str, Tensor]:
    return blocks.visits_again(call, kept.place_of(call, what))


def test_every_device_has_lists_of_its_own() -> None:
    module = attnspec.load("fixed_sparse")._generated  # of positions alone
    for device in ("cpu", "meta", "cpu"):
        x = torch.zeros(1, 2, 300, 16, device=device)
        found = visited(call_of(module, {"q": x, "k": x, "v": x}), 32, 32, False)
        assert {x.device.type for x in found.values()} == {device}


def test_kernels_run_where_their_tensors_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert isinstance(launch._there(torch.device("cuda", 1)), torch.cuda.device)
    assert not isinstance(launch._there(torch.device("cuda", 0)), torch.cuda.device)
    assert not isinstance(launch._there(torch.device("cpu")), torch.cuda.device)


def test_what_is_known_already_takes_no_room() -> None:
    some: Memo[str, int] = Memo(2)
    some["a"], some["b"] = 1, 2
    some["b"] = 3
    assert some == {"a": 1, "b": 3}
    some["c"] = 4
    assert some == {"c": 4}


def test_kernels_share_lists_of_the_same_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_KEPT", Memo())
    module, given = attnspec.load("documents")._generated, {**tensors(), "doc": documents(of=3)}
    one, other = call_of(module, given), call_of(module, given)
    first = visited(one, 32, 32, False)
    assert visited(other, 32, 32, False) is first
    assert visited(other, 32, 32, True) is not first
    assert visited(other, 32, 64, False) is not first
    given["doc"][:, 4:] += 5
    changed = visited(call_of(module, given), 32, 32, False)
    assert changed is not first
