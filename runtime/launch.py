"""Running a generated operation: on the CPU, under the interpreter, or on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from math import e, log2, prod
from typing import Any

import torch
from torch import Tensor

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime import cpu, native, native_build
from attnspec.runtime.arrange import (
    Layout,
    gradient_buffers,
    layout,
    need,
    programs,
    visited,
    written,
)
from attnspec.runtime.bind import Bound
from attnspec.runtime.blocks import visits_again
from attnspec.runtime.cpu_cuts import cuts
from attnspec.runtime.cpu_entmax import thresholds
from attnspec.runtime.kernel import interpreted
from attnspec.runtime.precision import own_precision
from attnspec.runtime.problem import WIDE, Kind, Pairwise, Problem, kind_within, problem
from attnspec.runtime.tile_tables import Config
from attnspec.runtime.tiles import FEW, INTERPRETED, config, describing, parts, trying, width

Kernels = Mapping[str, Any]
BACKENDS = ("triton", "cpu", "native")
EXPECTED_BACKEND = 'backend: expected "triton", "cpu", "native", "blocked" or "dense"'
_HERE = nullcontext()
LOG2E = log2(e)  # kernels work in base 2
_SEARCHED = {"position": cpu.positions, "threshold": thresholds, "cuts": cuts}


def backend_for(backend: str | None, device: torch.device) -> str:
    """The backend of a call: Triton on a GPU or under the interpreter, else tiles on the CPU, in
    C++ where that is there or pays, "auto"."""
    on_gpu = device.type == "cuda"
    if backend is None:
        return "triton" if on_gpu or interpreted() else "auto"
    if backend not in BACKENDS:
        raise AttnError(f"{EXPECTED_BACKEND}, got {backend!r}")
    if backend == "triton":
        if not on_gpu and not interpreted():
            raise AttnError(
                'backend: expected tensors on a GPU (or TRITON_INTERPRET=1) for "triton", got'
                f" tensors on {device}"
            )
    elif on_gpu:
        raise AttnError(
            f'backend: expected tensors on the CPU for "{backend}", got tensors on {device}'
        )
    elif backend == "native" and native_build.compiler() is None:
        raise AttnError('backend: expected a C++ compiler for "native" (or its path in CXX)')
    return backend


def as_rows(x: Tensor, dtype: torch.dtype, sizes: Mapping[str, int]) -> Tensor:
    """A row operand with all batches and heads."""
    if x.dtype is not dtype and x.is_floating_point():
        x = x.to(dtype)
    return _spread(x, (sizes["b"], sizes["h"], sizes["i"]))


def of_rows(x: Tensor, dtype: torch.dtype, sizes: Mapping[str, int]) -> Tensor:
    """A number or vector per row that takes part in no product; whole numbers, which have no
    gradient, stay one for all batches or heads."""
    if x.is_floating_point():
        return as_rows(x, dtype, sizes)
    return _spread(x, (*x.shape[:2], sizes["i"]))


def as_heads(x: Tensor, dtype: torch.dtype, sizes: Mapping[str, int]) -> Tensor:
    """A number or vector per head, with all batches and heads; integers in 64 bits, since positions
    may be added to them."""
    if x.dtype is torch.int32:
        x = x.long()
    elif x.dtype is not dtype and x.is_floating_point():
        x = x.to(dtype)
    return _spread(x, (sizes["b"], sizes["h"]))


def as_columns(
    operands: list[Tensor], dtype: torch.dtype, sizes: Mapping[str, int], floats: int
) -> list[Tensor]:
    """Column operands with all batches and one number of heads, that of keys where they agree.

    The first `floats` take part in matrix products and so get the operands' dtype. Of the others
    whole numbers stay one for all batches or heads, as in `of_rows`, but for the first of all,
    which tells how many heads there are.
    """
    heads = operands[0].shape[1]
    for x in operands:
        if x.shape[1] not in (1, heads):
            counts = {x.shape[1] for x in operands} - {1}
            heads = max(counts) if len(counts) == 1 else sizes["h"]
            break
    found, lead = [], (sizes["b"], heads, sizes["j"])
    for place, x in enumerate(operands):
        if place < floats and x.dtype is not dtype:
            x = x.to(dtype)
        batch, have, length, *_ = x.shape
        if (batch, have, length) != lead:
            if have not in (1, heads):
                x = x.repeat_interleave(heads // have, dim=1)
            one = place >= max(floats, 1) and not x.is_floating_point()
            x = _spread(x, (*x.shape[:2], sizes["j"]) if one else lead)
        found.append(x)
    return found


def _spread(x: Tensor, lead: tuple[int, ...]) -> Tensor:
    """x with its first dimensions repeated where they are 1."""
    count = len(lead)
    return x if x.shape[:count] == lead else x.expand(*lead, *x.shape[count:])


def entries(x: Tensor) -> Tensor:
    """Tables of tokens as [B or 1, heads, tokens, T], the entries of each in a row."""
    return x.flatten(3).contiguous()


def over_pairs(x: Tensor, dims: Sequence[str], flat: bool) -> Tensor:
    """A pair tensor [B or 1, H or 1, M, N]; with `flat` a contiguous table [B or 1, H or 1, T]."""
    lead = [1 if d not in dims else x.shape[dims.index(d)] for d in ("b", "h")]
    rest = [n for n, d in enumerate(dims) if d not in ("b", "h")]
    if not flat:
        rest.sort(key=lambda n: dims[n])  # "i" before "j"
    sizes = [x.shape[n] for n in rest]
    x = x.permute(*(dims.index(d) for d in ("b", "h") if d in dims), *rest)
    return x.reshape(*lead, prod(sizes)).contiguous() if flat else x.reshape(*lead, *sizes)


def outputs(call: Problem) -> tuple[Tensor, ...]:
    """Output and log-sum-exp, and of several weights the output of each softmax alone;
    uninitialised but for a map, of which no tile without pairs is written, and for entries, which
    are added to."""
    plan, shape = call.plan, (call.batch, call.heads, call.rows)
    if plan.branches:
        assert call.value is not None
        each = (plan.softmaxes, *shape)
        parts = call.value.new_empty((*each, call.value.shape[-1]))
        lse = torch.empty(each, dtype=call.wide, device=call.device)
        return call.value.new_empty(parts.shape[1:]), lse, parts
    if (value := call.value) is not None:
        lse = value.new_empty(shape if plan.softmax else 0, dtype=call.wide)
        return value.new_empty((*shape, value.shape[-1])), lse
    lse = torch.empty(shape if plan.softmax else 0, dtype=call.wide, device=call.device)
    if plan.form in WIDE:
        out = torch.zeros((*shape, call.width), dtype=call.wide, device=call.device)
    else:
        size = (*shape, 3) if plan.form == "cuts" else shape
        dtype = torch.int64 if plan.form in ("position", "cuts") else lse.dtype
        out = lse.new_empty(0 if plan.softmax else size, dtype=dtype)
    return out, lse


def by_name(plan: Pairwise, **tensors: Tensor) -> dict[str, Tensor]:
    """What kernels call those tensors that have one part for each of several softmaxes."""
    if not plan.branches:
        return tensors
    return {f"{name}_{n + 1}": part for name, x in tensors.items() for n, part in enumerate(x)}


def run_forward(
    plan: Pairwise,
    kernels: Kernels,
    args: tuple[Any, ...],
    backend: str,
    bound: Bound | None = None,
) -> tuple[Tensor, ...]:
    """`outputs` of one pass, part of the call `bound`, if that is known."""
    call = problem(plan, args)
    if backend != "triton":
        with own_precision(call.device):
            return _in_pytorch(call, backend)
    kernel, kind = kernels["forward"], kind_within(call, bound) if bound else call.kind
    known = laid_out_before(kernel, kind)
    made = outputs(call) if known is None else outputs_again(call, known)
    if not (made[0].numel() or made[1].numel()):
        return made
    how = known or laid_out(call, kind, "forward", kernel, {}, made)
    pointers = {"out": made[0], "lse": made[1]}
    if plan.branches:
        pointers = {"out": made[0], **by_name(plan, lse=made[1], part=made[2])}
    if how.parts == 1:
        launch(call, kernel, how, pointers)
        return made
    several = {
        name: torch.empty((how.parts, *x.shape), dtype=call.wide, device=call.device)
        for name, x in pointers.items()
    }
    launch(call, kernel, how, several)
    _merge(call, several, pointers)
    return made


def outputs_again(call: Problem, how: Layout) -> tuple[Tensor, ...]:
    """`outputs` of a call that is laid out like an earlier one."""
    device = how.device
    made = [
        torch.empty_strided(shape, strides, dtype=dtype, device=device)
        for shape, strides, dtype in how.outputs
    ]
    return tuple([x.zero_() for x in made] if call.plan.form in WIDE else made)


def _in_pytorch(call: Problem, backend: str) -> tuple[Tensor, ...]:
    """`outputs` of one call, tile by tile, or in C++ where that is there or pays."""
    plan = call.plan
    if 0 in (call.batch, call.heads, call.rows):
        return outputs(call)
    if plan.form in _SEARCHED:
        return _SEARCHED[plan.form](call), outputs(call)[1]
    library = native.made_for(call, backend)
    if library is not None:
        out, lse = made = outputs(call)
        if native.forward(call, library, out, lse):
            if plan.gate is not None:
                out.mul_(gate_of(call))
            return made
    acc, *rest = cpu.forward(call)
    if plan.gate is not None:
        acc = acc * gate_of(call)
    if call.value is None or acc.dtype is call.value.dtype:
        return acc, *rest
    lse, *parts = rest
    return acc.to(call.value.dtype), lse, *(x.to(call.value.dtype) for x in parts)


def _parts(call: Problem, tile: Config) -> int:
    """How many programs share the keys of a tile of rows."""
    if interpreted():  # whether or not it pays
        tiles = -(-call.columns // INTERPRETED.block_n)
        return max(min(3, tiles), 1) if call.rows <= FEW else 1
    tiles = programs(call, "forward", tile)
    return parts(tiles, call.columns, target(call.device))


def _merge(call: Problem, parts: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """Make one output of those over parts of the keys."""
    from attnspec.runtime.triton_parts import merge

    softmax, out = call.plan.softmax, into["out"]
    lses = (parts["lse"], into["lse"]) if softmax else (None, None)
    rows, channels = out.shape[:3].numel(), out.shape[3]
    sizes = {"C": channels, "W": width(channels), "PARTS": len(parts["out"]), "SOFTMAX": softmax}
    with _there(call.device):
        merge[(rows,)](parts["out"], lses[0], out, lses[1], rows, **sizes)


def gate_of(call: Problem) -> Tensor:
    """The gate of every channel, [B, H, M, E or 1]."""
    assert call.plan.gate is not None
    gate = call.tensors[call.plan.gate].to(call.wide)
    return gate if gate.dim() == 4 else gate[..., None]


def _read(upstream: Tensor, product: Tensor) -> Tensor:
    """A product with a gradient: where that is 0, 0, though the gate that nobody reads be inf."""
    return torch.where(upstream == 0, 0, product)


def run_backward(
    plan: Pairwise,
    kernels: Kernels,
    given: tuple[Tensor | None, Tensor | None],
    saved: tuple[Tensor, ...],
    args: tuple[Any, ...],
    backend: str,
    need: Sequence[bool],
) -> list[Tensor]:
    """Gradients of `plan.grads`; those not needed are zero."""
    call = problem(plan, args)
    d_out, d_lse = given
    out, lse, *parts = saved
    if 0 in (call.batch, call.heads, call.rows):
        return [torch.zeros_like(call.tensors[n]).contiguous() for n in plan.grads]
    if d_out is None:
        d_out = torch.zeros_like(out)
    wide = call.wide
    found: dict[str, Tensor] = {}
    upstream = d_out
    if plan.gate is not None:
        d_out = _read(d_out, d_out.to(wide) * gate_of(call)).to(d_out.dtype)
    delta = lse.new_empty(0)
    if plan.branches:
        softmaxes = plan.weights[: plan.softmaxes]
        products = [(d_out.to(wide) * part.to(wide)).sum(-1) for part in parts[0]]
        for weight, product in zip(softmaxes, products, strict=True):
            if isinstance(weight.coefficient, str):
                found[weight.coefficient] = product
        scaled = zip((cpu.coefficient(call, w) for w in softmaxes), products, strict=True)
        delta = torch.stack([by * product[..., None] for by, product in scaled]).squeeze(-1)
    elif plan.softmax:
        delta = torch.zeros_like(lse)
        if call.value is not None:
            delta = upstream.to(wide) * out.to(wide)
            delta = (delta if plan.gate is None else _read(upstream, delta)).sum(-1)
    if d_lse is not None and plan.softmaxes:
        delta = delta - d_lse.to(wide)
    each = (plan.softmaxes, call.batch, call.heads, call.rows)
    for weight, total, less in zip(plan.weights, lse.view(each), delta.view(each), strict=False):
        if weight.sink is not None:
            sink = call.tensors[weight.sink].to(wide)
            share = torch.exp(sink - torch.where(torch.isneginf(total), 0.0, total))
            found[weight.sink] = -torch.where(torch.isneginf(sink), 0.0, share) * less
    wanted = frozenset(n for n, yes in zip(plan.grads, need, strict=True) if yes)
    if backend != "triton":
        given, library = (d_out, upstream), native.made_for(call, backend)
        quick = library and native.backward(call, library, given, lse, delta, wanted)
        with own_precision(call.device):
            found |= quick or cpu.backward(call, given, lse, delta, wanted)
    else:
        read = {"d_out": d_out, "upstream": upstream}
        read |= by_name(plan, lse=lse * LOG2E, delta=delta)
        found |= _backward_kernels(call, kernels, read, wanted)
    done = []
    for name in plan.grads:
        like = call.tensors[name]
        if name in wanted:
            done.append(found[name].to(like.dtype).reshape(like.shape).contiguous())
        else:
            done.append(torch.zeros(like.shape, dtype=like.dtype, device=like.device))
    return done


def _backward_kernels(
    call: Problem,
    kernels: Kernels,
    read: dict[str, Tensor],
    wanted: frozenset[str],
) -> dict[str, Tensor]:
    plan = call.plan
    given = {name: x.contiguous() for name, x in read.items()}
    if plan.masked and plan.softmax:
        given |= {n: finite_copy(call.tensors[n]) for _, x, y in plan.dots for n in (x, y)}
    found: dict[str, Tensor] = {}
    roles, kind = plan.roles, call.kind
    for name, kernel in kernels.items():
        if name == "forward":
            continue
        mine = written(tuple(kernel.arg_names))
        if not wanted & set(mine):
            continue
        how = laid_out(call, kind, name, kernel, given)
        grads = gradient_buffers(call, tuple(kernel.arg_names), how.tile, wanted)
        into = {f"d_{operand}": grad for operand, grad in grads.items()}
        launch(call, kernel, how, given | into)
        for operand in mine:
            grad, like = grads[operand], call.tensors[operand]
            if grad is None:
                continue
            match roles.get(operand, ""):
                case "head":
                    grad = grad.sum(2)
                case "table":
                    grad = grad.sum(2).sum_to_size(like.shape)
                case "pair" | "row_blocks" | "column_blocks":
                    grad = grad.sum_to_size(like.shape)
            found[operand] = grad
    return found


def finite_copy(x: Tensor) -> Tensor:
    """x with NaN and infinities as 0: where a pair is excluded, its operands must not count."""
    once = x[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in x.stride())]
    return once.nan_to_num(0.0, 0.0, 0.0).expand(x.shape)


def _tile(call: Problem, name: str) -> Config:
    if interpreted():  # whether or not it pays
        by_descriptors = INTERPRETED.descriptors or describing()
        return replace(INTERPRETED, pack=call.rows <= FEW, descriptors=by_descriptors)
    return config(need(call, name), target(call.device))


@cache
def target(device: torch.device) -> str:
    """What a GPU is called in tables of tiles, as `cuda:90`."""
    if torch.version.hip:
        return f"hip:{torch.cuda.get_device_properties(device).gcnArchName.partition(':')[0]}"
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda:{major}{minor}"


def laid_out_before(kernel: Any, kind: Kind) -> Layout | None:
    """How `kernel` was launched by earlier calls of this kind, if there were any."""
    return None if trying() else kernel.layouts.get(kind)


def laid_out(
    call: Problem, kind: Kind, name: str, kernel: Any, pointers: Mapping[str, Tensor | None],
    made: Sequence[Tensor] = (),
) -> Layout:  # fmt: skip
    """How `kernel` is launched: as by earlier calls of this kind, if there were any. `pointers` are
    what stands in for operands, `made` the outputs."""
    found = laid_out_before(kernel, kind)
    if found is None:
        if call.dtype is torch.float64:
            raise AttnError('backend "triton": expected float32, float16 or bfloat16, got float64')
        tile, names = _tile(call, name), tuple(kernel.arg_names)
        parts = _parts(call, tile) if "PARTS" in names else 1
        visits = visited(call, name, tile)
        found = layout(call, name, names, pointers, visits, tile, parts, made)
        if not trying():
            kernel.layouts[kind] = found
    return found


def launch(call: Problem, kernel: Any, how: Layout, pointers: Mapping[str, Tensor | None]) -> None:
    """Run one kernel over every tile; `pointers` are what it reads or writes beside the call's
    operands, or in their stead."""
    tensors = {**call.tensors, **pointers, **visits_again(call, how.visits)}
    args = how.filled(tensors, call.every_number)
    with _there(how.device) if how.on_gpu else _HERE:
        kernel[how.grid](*args, num_warps=how.tile.warps, num_stages=how.tile.stages)


def _there(device: torch.device) -> AbstractContextManager[object]:
    """Where Triton launches on a GPU that is not the current one."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device(device)


def wide_dtype(bound: Bound) -> torch.dtype:
    """The dtype of host arithmetic on positions and of every sum."""
    return torch.float64 if bound.dtype is torch.float64 else torch.float32
