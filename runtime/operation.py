"""What a generated module calls: its operation, through PyTorch's dispatcher where that matters.

Whoever traces or transforms a call (a compiler, `torch.func`, a mode, a tensor subclass, a
profiler) sees one opaque operation. Where nobody looks on, the same functions are called at once:
the dispatcher takes longer than everything else that the host does for a call, and its first
Python operation imports all of TorchDynamo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.bind import Bound
from attnspec.runtime.calls import not_kept, noticed, plain
from attnspec.runtime.forward_mode import no_forward_mode
from attnspec.runtime.launch import (
    Kernels,
    outputs,
    run_backward,
    run_forward,
)
from attnspec.runtime.problem import Pairwise, problem

Operation = Callable[..., tuple[Tensor, ...]]
_OPERATIONS: dict[str, Any] = {}
_REGISTERS = Lock()


def opaque(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Makes a function of a generated module PyTorch's operation `name`, once in a process.

    The name says what the module's text is, so that modules of one text, of the cache and of a
    file, have one operation: PyTorch takes an operation whose name is registered again from
    whoever holds it.
    """

    def register(function: Callable[..., Any]) -> Any:
        with _REGISTERS:
            if name not in _OPERATIONS:
                _OPERATIONS[name] = torch.library.custom_op(name, mutates_args=())(function)
            return _OPERATIONS[name]

    return register


def watched(tensors: Sequence[Tensor]) -> bool:
    """Whether anything would notice a call that does not go through the dispatcher."""
    return not_kept() or noticed() or not all(map(plain, tensors))


def traceable(plan: Pairwise, kernels: Kernels, forward_op: Any) -> Operation:
    """The operation of a pass without gradients, whose first argument is the call that it is part
    of; registers its fake implementation."""
    count = len(plan.operands)

    def fake_forward(*args: Any) -> tuple[Tensor, ...]:
        return outputs(problem(plan, args[:-1]))

    def operation(bound: Bound, *args: Any) -> tuple[Tensor, ...]:
        if bound.passed is None and watched(args[:count]):
            found: tuple[Tensor, ...] = forward_op(*args)
            return found
        return run_forward(plan, kernels, args[:-1], args[-1], bound)

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
            tensors, (bound, rest) = inputs[:count], inputs[count]
            made = run_forward(plan, kernels, (*tensors, *rest[:-1]), rest[-1], bound)
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors, *made)
            ctx.rest = rest
            return made

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return (*gradient(ctx, *grads)[:count], None)

    # PyTorch's own `apply` looks first for transforms, which no call here is under, and for what
    # they left behind, which `watched` takes elsewhere
    apply: Operation = super(torch.autograd.Function, Recorded).apply

    def operation(bound: Bound, *args: Any) -> tuple[Tensor, ...]:
        tensors = args[:count]
        if not torch.is_grad_enabled() or (bound.passed is None and watched(tensors)):
            return unrecorded(bound, *args)
        for x in tensors:
            if x.requires_grad:
                return apply(*tensors, (bound, args[count:]))
        return unrecorded(bound, *args)

    backward_op.register_fake(fake_backward)
    forward_op.register_autograd(gradient, setup_context=setup)
    backward_op.register_autograd(_no_second_derivative)
    return operation


def _no_second_derivative(ctx: Any, *grads: Any) -> None:
    raise AttnError("second derivatives of a generated kernel: not there")
