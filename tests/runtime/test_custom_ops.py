"""Generated operations as PyTorch sees them: opaque, traceable, differentiable once."""

from __future__ import annotations

import runpy
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import attnspec
from attnspec.codegen import library
from attnspec.runtime.sampling import keywords, sample
from attnspec.runtime.signature_of import signature

Call = tuple[Any, tuple[Any, ...]]


class Operations(TorchDispatchMode):
    """Keeps every call of a generated operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "attnspec":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def calls(name: str) -> list[Call]:
    """The forward and the backward operations of one small call, as they are called."""
    attention = attnspec.load(name)
    sizes = {"b": 1, "h": 2, "heads": 1}
    generator = torch.Generator().manual_seed(0)
    bound = sample(attention.spec, generator, sizes, requires_grad=True)
    with Operations() as seen:
        given: dict[str, Any] = {**keywords(signature(attention.spec), bound)}
        output, extras = attention(**given, extras=True, backend="cpu")
        results = [x for x in (output, *extras.values()) if x is not None and x.requires_grad]
        torch.stack([x.sum().double() for x in results]).sum().backward()
    found: list[Call] = seen.calls
    return found


def fresh(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        a.detach().clone().requires_grad_(a.is_floating_point()) if isinstance(a, Tensor) else a
        for a in args
    )


@pytest.mark.parametrize("name", library.names())
def test_an_operation_passes_opcheck(name: str) -> None:
    if not attnspec.load(name).plan.passes:
        pytest.skip("no operation")
    for operation, args in calls(name):
        checks: tuple[str, ...] = ("test_schema", "test_faketensor")
        given = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
        if "_backward" not in operation.name():
            checks, given = (*checks, "test_autograd_registration"), fresh(args)
        torch.library.opcheck(operation, given, test_utils=checks)


@pytest.mark.parametrize("name", ["causal", "t5", "gated_elementwise", "sink"])
def test_an_operation_traces_with_dynamic_shapes(name: str) -> None:
    forward, inputs = calls(name)[0]
    torch.library.opcheck(forward, fresh(inputs), test_utils=("test_aot_dispatch_dynamic",))


def tensors(length: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    shape = (2, 2, length, 16)
    drawn = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(3)]
    return [x.requires_grad_() for x in drawn]


@pytest.mark.parametrize("name", ["causal", "alibi", "softcap"])
def test_a_compiled_step_is_the_eager_one(name: str) -> None:
    """Whole graph, at two lengths with one compilation."""
    attention = attnspec.load(name)

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v).square().mean()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (24, 40):
        inputs = tensors(length)
        expected = torch.autograd.grad(step(*inputs), inputs)
        found = torch.autograd.grad(compiled(*inputs), inputs)
        for want, have in zip(expected, found, strict=True):
            torch.testing.assert_close(have, want)


@pytest.mark.parametrize("name", ["causal", "alibi", "softcap", "sigmoid"])
def test_gradients_in_float64(name: str) -> None:
    attention = attnspec.load(name)
    inputs = tensors(7, torch.float64)
    assert torch.autograd.gradcheck(attention, inputs, fast_mode=True)


def test_a_second_derivative_is_an_error() -> None:
    inputs = tensors(8)
    output = attnspec.load("causal")(*inputs).sum()
    first = torch.autograd.grad(output, inputs, create_graph=True)
    with pytest.raises(attnspec.AttnError, match="second derivatives"):
        torch.autograd.grad(first[0].sum(), inputs)


def test_a_module_that_is_loaded_twice_leaves_the_first_its_operations(tmp_path: Path) -> None:
    """As a file that was built is, beside the cache."""
    attention, inputs = attnspec.load("causal"), tensors(8)
    (plain,) = torch.autograd.grad(attention(*inputs).sum(), inputs[0])
    (tmp_path / "built.py").write_text(attention.source)
    built = runpy.run_path(str(tmp_path / "built.py"))
    for attend in (attention, built["attend"]):
        (found,) = torch.autograd.grad(attend(*inputs).sum(), inputs[0], create_graph=True)
        assert torch.equal(found, plain)


def test_modules_of_one_text_are_loaded_by_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, inputs = tmp_path / "built.py", tensors(8)
    text = attnspec.load("causal").source.replace("attnspec::", "attnspec::threads_")
    built.write_text(text)  # of names that nobody has registered
    whole = torch.library.custom_op

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.05)
        return whole(*args, **kwargs)

    monkeypatch.setattr(torch.library, "custom_op", slow)
    with ThreadPoolExecutor(4) as pool:
        modules = list(pool.map(runpy.run_path, [str(built)] * 4))
    for module in modules:
        assert module["forward_op"] is modules[0]["forward_op"]
        torch.autograd.grad(module["attend"](*inputs).sum(), inputs[0], create_graph=True)


def test_forward_mode_is_an_error() -> None:
    attention = attnspec.load("causal")
    q, k, v = (x.detach() for x in tensors(8))
    with pytest.raises(attnspec.AttnError, match="forward-mode"):
        torch.func.jvp(lambda q: attention(q, k, v), (q,), (torch.ones_like(q),))


def test_forward_mode_is_an_error_of_a_side_of_its_own_too() -> None:
    text = "attention a\ninput x[b, n]\nscore = dot(q[i], k[j]) + x[i] - x[j]\n"
    attention = attnspec.compile(text)
    q, k, v = (x.detach() for x in tensors(8))
    x = torch.randn(len(q), 8)
    with pytest.raises(attnspec.AttnError, match="forward-mode"):
        torch.func.jvp(lambda x: attention(q, k, v, x=(x, 2 * x)), (x,), (torch.ones_like(x),))


def test_checkpointing_changes_nothing() -> None:
    attention = attnspec.load("causal")
    inputs = tensors(16)
    plain = torch.autograd.grad(attention(*inputs).sum(), inputs)
    output = checkpoint(attention, *inputs, use_reentrant=False)
    for want, have in zip(plain, torch.autograd.grad(output.sum(), inputs), strict=True):
        assert torch.equal(have, want)


def test_export_keeps_the_operation() -> None:
    attention = attnspec.load("causal")

    class Layer(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(q, k, v)

    inputs = tuple(x.detach() for x in tensors(16))
    exported = torch.export.export(Layer(), inputs)
    assert any("attnspec" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(*inputs), attention(*inputs))


def test_export_of_any_length() -> None:
    """Also where a length is a number that a kernel takes."""
    attention, table = attnspec.load("t5"), torch.randn(2, 32)

    class Layer(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(q, k, v, table=table)

    inputs, others = ([x.detach() for x in tensors(n)] for n in (16, 11))
    length = torch.export.Dim("length", min=2, max=64)
    shapes = {name: {2: length} for name in "qkv"}
    exported = torch.export.export(Layer(), tuple(inputs), dynamic_shapes=shapes)
    torch.testing.assert_close(exported.module()(*others), attention(*others, table=table))


def test_operands_of_different_dtypes_are_refused() -> None:
    q, k, v = tensors(8)
    with pytest.raises(attnspec.AttnError, match="float16"):
        attnspec.load("causal")(q, k.half(), v)


def test_a_gate_has_its_gradient_though_the_ungated_output_is_not_stored() -> None:
    attention = attnspec.compile(
        "attention a\ninput z[b, h, i, e]\nmask j <= i\n"
        "score = dot(q[i], k[j]) * size(d) ** -0.5\ngate = sigmoid(z[i])\n"
    )
    q, k, v, z = (torch.randn(2, 2, 40, 16, requires_grad=True) for _ in range(4))
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = attention(q, k, v, z=z)
    given = {x.data_ptr() for x in (q, k, v, z)}
    vectors = {x.data_ptr(): x for x in kept if x.shape == out.shape and x.data_ptr() not in given}
    assert len(vectors) == 2  # the output, and the gate that the host made
    (found,) = torch.autograd.grad(out.sum(), z)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    (expected,) = torch.autograd.grad((plain * torch.sigmoid(z)).sum(), z)
    torch.testing.assert_close(found, expected)
