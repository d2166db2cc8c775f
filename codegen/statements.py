"""Operations of a tile as Triton and as PyTorch statements."""

from __future__ import annotations

from attnspec.codegen.spelling import TORCH, TRITON, number, spelled
from attnspec.codegen.tile import Atom, Op
from attnspec.dsl.ast import Kind

# Where a table's entries begin: once a head, or for every token of the tile.
_BASES = {"load": "at", "load_row": "of", "load_column": "of"}
CAST = {Kind.FLOAT: ".to(tl.float32)", Kind.BOOL: ".to(tl.int1)", Kind.INT: ""}


def text(atom: Atom) -> str:
    """An atom as code."""
    return atom if isinstance(atom, str) else number(atom)


def triton_line(op: Op) -> str:
    """One operation as a Triton statement."""
    if op.op in _BASES:
        table, index = text(op.args[0]), text(op.args[1])
        at = f"{_BASES[op.op]}_{table}"
        return f"{op.target} = look_up({at}, {index}, T_{table}){CAST[op.kind]}"
    form = TRITON[spelled(op.op, op.kind)]
    return f"{op.target} = {form.format(*(text(a) for a in op.args))}"


def annotated(ops: list[Op]) -> list[str]:
    """Triton statements, the line of the spec that they come from above them."""
    lines: list[str] = []
    note = ""
    for op in ops:
        if op.note and op.note != note:
            lines.append(f"# {ascii(op.note)[1:-1]}")
        note = op.note
        lines.append(triton_line(op))
    return lines


def torch_line(op: Op) -> str:
    """One operation as a PyTorch statement over a tile's values."""
    if op.op in _BASES:
        name = op.op.replace("load", "lookup")
        return f"{op.target} = {name}({text(op.args[0])}, {text(op.args[1])})"
    form = TORCH[spelled(op.op, op.kind)]
    args = [text(a) for a in op.args]
    if _chooses_numbers(op):
        args[1] = f"torch.full((), {args[1]}, dtype=wide)"
    return f"{op.target} = {form.format(*args)}"


def takes_wide(op: Op) -> bool:
    """Whether the PyTorch statement of an operation names the dtype of sums, `wide`."""
    return op.op == "float" or _chooses_numbers(op)


def _chooses_numbers(op: Op) -> bool:
    """A choice between two numbers, which PyTorch would give its default dtype."""
    numbers = not any(isinstance(a, str) for a in op.args[1:])
    return op.op == "where" and op.kind is Kind.FLOAT and numbers
