"""What a generated module calls: its operation, through PyTorch's dispatcher where that matters.

Whoever traces or transforms a call (a compiler, `torch.func`, a mode, a tensor subclass, a
profiler) sees one opaque operation. Where nobody looks on, the same functions are called at once:
the dispatcher takes longer than everything else that the host does for a call, and its first
Python operation imports all of TorchDynamo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.launch import (
    Kernels,
    no_forward_mode,
    outputs,
    run_backward,
    run_forward,
)
from attnspec.runtime.problem import Pairwise, problem

Operation = Callable[..., tuple[Tensor, ...]]
_PLAIN = (Tensor, torch.nn.Parameter)


def watched(tensors: Sequence[Tensor]) -> bool:
    """Whether anything would notice a call that does not go through the dispatcher."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_torch_function_mode_enabled()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or torch._C._autograd._profiler_enabled()
        or any(type(x) not in _PLAIN or not (x.is_cpu or x.is_cuda) or x.is_neg() for x in tensors)
    )


def traceable(plan: Pairwise, kernels: Kernels, forward_op: Any) -> Operation:
    """The operation of a pass without gradients; registers its fake implementation."""
    count = len(plan.operands)

    def fake_forward(*args: Any) -> tuple[Tensor, ...]:
        return outputs(problem(plan, args[:-1]))

    def operation(*args: Any) -> tuple[Tensor, ...]:
        if watched(args[:count]):
            found: tuple[Tensor, ...] = forward_op(*args)
            return found
        return run_forward(plan, kernels, args[:-1], args[-1])

    forward_op.register_fake(fake_forward)
    return operation


def differentiable(
    plan: Pairwise, kernels: Kernels, forward_op: Any, backward_op: Any
) -> Operation:
    """The operation of a pass, `backward_op` its gradient; registers fake implementations."""
    unrecorded = traceable(plan, kernels, forward_op)
    count = len(plan.operands)
    first = 5 if plan.branches else 4  # after what flows back and what was saved
    places = [plan.names.index(n) for n in plan.grads]

    def fake_backward(*args: Any) -> list[Tensor]:
        call = problem(plan, args[first:-2])
        return [torch.empty(call.tensors[n].shape, dtype=call.tensors[n].dtype,
                            device=call.tensors[n].device) for n in plan.grads]  # fmt: skip

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:count], *output)
        ctx.rest = inputs[count:]

    def gradient(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None, *_: None) -> Any:
        kept = ctx.saved_tensors  # once: checkpointing recomputes them for each access
        tensors, saved = kept[:count], kept[count:]
        need = [bool(ctx.needs_input_grad[p]) for p in places]
        flowing = [x for x in (d_out, d_lse) if x is not None]
        no_forward_mode(flowing)
        if torch.is_grad_enabled() or watched([*flowing, *kept]):
            found = backward_op(d_out, d_lse, *saved, *tensors, *ctx.rest, need)
        else:
            given, args = (d_out, d_lse), (*tensors, *ctx.rest[:-1])
            found = run_backward(plan, kernels, given, saved, args, ctx.rest[-1], need)
        grads: list[Tensor | None] = [None] * (count + len(ctx.rest))
        for place, yes, grad in zip(places, need, found, strict=True):
            grads[place] = grad if yes else None
        return tuple(grads)

    class Recorded(torch.autograd.Function):
        """The operation as autograd records it: of tensors, the other arguments in one last."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
            *tensors, rest = inputs
            made = run_forward(plan, kernels, (*tensors, *rest[:-1]), rest[-1])
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors, *made)
            ctx.rest = rest
            return made

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return (*gradient(ctx, *grads)[:count], None)

    def operation(*args: Any) -> tuple[Tensor, ...]:
        tensors = args[:count]
        wanted = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        if not wanted or watched(tensors):
            return unrecorded(*args)
        found: tuple[Tensor, ...] = Recorded.apply(*tensors, args[count:])  # type: ignore[no-untyped-call]
        return found

    backward_op.register_fake(fake_backward)
    forward_op.register_autograd(gradient, setup_context=setup)
    backward_op.register_autograd(_no_second_derivative)
    return operation


def _no_second_derivative(ctx: Any, *grads: Any) -> None:
    raise AttnError("second derivatives of a generated kernel: not there")
