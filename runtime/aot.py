"""Kernels compiled without a GPU: their binaries, and what each takes of a multiprocessor.

A kernel is compiled for what a launch would compile it for: the call is recorded from the
module's own `attend` on arguments of a typical size, so strides, dtypes and tiles are those of
run time.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, TypeAlias

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget

from attnspec.dsl.ast import Spec
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.arrange import arrange, gradient_buffers, need
from attnspec.runtime.compat import specialized, targeting
from attnspec.runtime.disassembly import run_tool, spilled
from attnspec.runtime.kernel import interpreted
from attnspec.runtime.launch import by_name, outputs
from attnspec.runtime.problem import Problem, problem
from attnspec.runtime.tile_tables import Config
from attnspec.runtime.tiles import TARGETS, config
from attnspec.runtime.typical import typical

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PHASES = {"forward": "fwd", "backward_rows": "bwd_dq", "backward_columns": "bwd_dkv"}
HEADS, LENGTHS = 16, (256, 64)
# Spec, module, kernel, call, target, dtype and head dimension of one compilation.
Work: TypeAlias = tuple[Spec, ModuleType, str, Problem, str, str, int]


@dataclass(frozen=True, slots=True)
class Built:
    """One kernel for one target: its tile and what it takes. `spills` counts the instructions
    that move registers to and from memory, `wgmma` those of a whole warpgroup's product, `mma`
    every matrix instruction, `copies` those that copy a tile by its descriptor; `shared` is in
    bytes."""

    spec: str
    kernel: str
    phase: str
    target: str
    dtype: str
    head_dim: int
    block_m: int
    block_n: int
    warps: int
    stages: int
    registers: int
    spills: int
    shared: int
    wgmma: int
    mma: int
    copies: int

    @property
    def stem(self) -> str:
        """The name of its files, without suffix."""
        target = self.target.replace(":", "_")
        return f"{self.spec}.{self.kernel}.{target}.{self.dtype}.d{self.head_dim}"


def record(
    spec: Spec, module: ModuleType, dtype: str, head_dim: int, place: int = 0,
    rows: int | None = None, group: int = 1, **instead: Any,
) -> Problem:  # fmt: skip
    """The call that `module.attend` makes of its pass at `place` on arguments of a typical size,
    with so many queries and query heads to a key head; `instead` are arguments to pass in place of
    the typical ones."""
    for length in LENGTHS:
        given = typical(
            spec, heads=HEADS, kv_heads=max(1, HEADS // group), length=length, rows=rows,
            channels=head_dim, dtype=DTYPES[dtype],
        )  # fmt: skip
        try:
            return call_of(module, given | instead, place)
        except AttnError:  # a spec may ask for shorter ones
            continue
    raise AttnError(f"{spec.name}: no arguments of a typical size could be made")


def call_of(module: ModuleType, given: Mapping[str, Any], place: int = 0) -> Problem:
    """The call that `module.attend` makes of its pass at `place` on the arguments `given`."""
    recorder = _Recorder(module)
    with recorder, torch.no_grad():
        module.attend(**given, backend="cpu")
    return recorder.calls[place]


class _Recorder(TorchDispatchMode):
    """Collects the calls of generated operations, which give what a row without pairs would."""

    def __init__(self, module: ModuleType) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.module = module
        self.calls: list[Problem] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace != "attnspec":
            return func(*args, **(kwargs or {}))
        plan, _ = self.module.PASSES[len(self.calls)]
        self.calls.append(problem(plan, args[:-1]))
        return tuple(x.zero_() for x in outputs(self.calls[-1]))


def gpu_target(name: str) -> GPUTarget:
    """`cuda:90` or `hip:gfx942` as Triton's target; AttnError for one that is not supported."""
    if name not in TARGETS:
        raise AttnError(f"target: expected one of {', '.join(TARGETS)}, got {name!r}")
    kind, _, arch = name.partition(":")
    return GPUTarget(kind, int(arch), 32) if kind == "cuda" else GPUTarget(kind, arch, 64)


def source_of(
    module: ModuleType, name: str, call: Problem, target: str, tile: Config, leaves: bool = True,
    parts: int = 1,
) -> Any:  # fmt: skip
    """What a launch of kernel `name` would compile for the recorded call; without `leaves`, for
    gradients of the products' operands and the value alone; `parts` programs share the keys."""
    place = [plan for plan, _ in module.PASSES].index(call.plan)
    kernel = module.PASSES[place][1][name]
    names = tuple(kernel.arg_names)
    out, lse, *each = outputs(call)
    pointers: dict[str, Tensor | None] = {"out": out, "d_out": out, "upstream": out}
    pointers |= by_name(call.plan, lse=lse, delta=lse, **dict(zip(("part",), each, strict=False)))
    if name != "forward":
        wanted = call.tensors if leaves else ()
        grads = gradient_buffers(call, names, tile, wanted)
        pointers |= {f"d_{operand}": grad for operand, grad in grads.items()}
    args = arrange(call, name, names, pointers, tile, parts)
    return specialized(kernel.jit, args, _options(tile), gpu_target(target))


def _options(tile: Config) -> dict[str, int]:
    return {"num_warps": tile.warps, "num_stages": tile.stages}


def compiled(
    module: ModuleType, name: str, call: Problem, target: str, tile: Config, leaves: bool = True,
    parts: int = 1,
) -> Any:  # fmt: skip
    """Kernel `name` of the recorded call as Triton compiles it: `asm` and `metadata`."""
    if interpreted():
        raise AttnError(
            "compiling ahead of time: not under Triton's interpreter (TRITON_INTERPRET)"
        )
    where = gpu_target(target)
    with targeting(where):
        source = source_of(module, name, call, target, tile, leaves, parts)
        return triton.compile(source, where, _options(tile))


def build_kernel(
    spec: Spec, module: ModuleType, name: str, call: Problem, target: str, dtype: str,
    head_dim: int, tile: Config | None = None, parts: int = 1,
) -> tuple[Built, bytes]:  # fmt: skip
    """Compile kernel `name` of the recorded call; its report and its binary."""
    tile = tile or config(need(call, name), target)
    made = compiled(module, name, call, target, tile, parts=parts)
    binary = made.asm["cubin" if target.startswith("cuda") else "hsaco"]
    registers, spills = resources(made.asm, binary)
    text = made.asm.get("ptx") or made.asm["amdgcn"]
    place = [plan for plan, _ in module.PASSES].index(call.plan)
    built = Built(
        spec.name,
        name + (f"_{place + 1}" if place else ""),
        PHASES.get(name, name.replace("backward", "bwd")),
        target,
        dtype,
        head_dim,
        tile.block_m,
        tile.block_n,
        tile.warps,
        tile.stages,
        registers,
        spills,
        made.metadata.shared,
        len(re.findall(r"\bwgmma\.mma_async", text)),
        len(re.findall(r"\b(?:wgmma\.mma_async|mma\.sync|tcgen05\.mma|v_mfma)", text)),
        len(re.findall(r"\bcp\.async\.bulk\.tensor", text)),
    )
    return built, binary


def resources(asm: Mapping[str, Any], binary: bytes) -> tuple[int, int]:
    """Registers a thread, and instructions that spill them."""
    if "amdgcn" in asm:
        count = {
            key: int(re.findall(rf"\.{key}:\s*(\d+)", asm["amdgcn"])[0])
            for key in ("vgpr_count", "vgpr_spill_count", "sgpr_spill_count")
        }
        return count["vgpr_count"], count["vgpr_spill_count"] + count["sgpr_spill_count"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage = run_tool("cuobjdump", "-res-usage", file.name)
        registers, stack = (int(re.findall(rf"{key}:(\d+)", usage)[0]) for key in ("REG", "STACK"))
        spills = stack > 0 and spilled(asm["ptx"])
        code = run_tool("nvdisasm", "-c", file.name) if spills else ""
    return registers, len(re.findall(r"\b(?:LDL|STL)[. ]", code))


def build(
    spec: Spec, module: ModuleType, targets: Sequence[str], dtypes: Sequence[str],
    head_dims: Sequence[int],
) -> Iterator[tuple[Built, bytes]]:  # fmt: skip
    """Every kernel of a generated module for every target, dtype and head dimension."""
    for dtype in dtypes:
        for head_dim in head_dims:
            for place, (_, kernels) in enumerate(module.PASSES):
                call = record(spec, module, dtype, head_dim, place)
                for target in targets:
                    for name in kernels:
                        yield build_kernel(spec, module, name, call, target, dtype, head_dim)


def files(built: Built, binary: bytes) -> dict[str, bytes]:
    """The files of one kernel: its binary, and its report beside it."""
    suffix = "cubin" if built.target.startswith("cuda") else "hsaco"
    report = json.dumps(asdict(built), indent=1) + "\n"
    return {f"{built.stem}.{suffix}": binary, f"{built.stem}.json": report.encode()}
