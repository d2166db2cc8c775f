"""The generated function's parameters: as data, as Python, and as documentation."""

from __future__ import annotations

from dataclasses import fields

from attnspec.codegen.layout import layout
from attnspec.codegen.spelling import tuple_text
from attnspec.dsl.ast import Spec
from attnspec.runtime.signature import Argument, Signature
from attnspec.runtime.signature_of import signature

_LETTERS = {"b": "B", "h": "H", "i": "M", "j": "N", "d": "D", "e": "E", "t": "N"}


def signature_code(spec: Spec, written: Spec) -> str:
    """The signature of `spec`, which was made of `written`, as a literal that makes it again."""
    return layout(_code(signature(spec, written)), used=len("SIGNATURE = "))


def _code(value: object) -> str:
    """`repr` without the fields that hold their default."""
    if isinstance(value, tuple):
        return tuple_text(_code(v) for v in value)
    if not hasattr(value, "__dataclass_fields__"):
        return repr(value)
    parts = []
    for f in fields(value):  # type: ignore[arg-type]
        item = getattr(value, f.name)
        if item != f.default:
            parts.append(f"{f.name}={_code(item)}")
    return f"{type(value).__name__}({', '.join(parts)})"


def parameters(spec: Spec) -> list[str]:
    """Parameters of `attend`, in call order."""
    found: Signature = signature(spec)
    shown, optional = [], False
    for argument in found.arguments:
        optional = optional or not argument.required
        kind = argument.kind if argument.scalar else "Tensor"
        if argument.paired:
            kind = "Tensor | tuple[Tensor, Tensor]"
        shown.append(f"{argument.name}: {kind} | None = None" if optional else
                     f"{argument.name}: {kind}")  # fmt: skip
    shown.append("*")
    shown += [f"{size}: int" for grid in found.grids for size in grid.sizes]
    shown += ["q_start: int = 0", "k_start: int = 0"]
    return [*shown, "extras: bool = False", "backend: str | None = None"]


def parameter_docs(spec: Spec) -> list[str]:
    """A line for each argument: its shape and type."""
    return [f"{a.name}: {_shape(a)} {a.kind}{_default(a)}" for a in signature(spec).arguments]


def _shape(argument: Argument) -> str:
    if argument.scalar:
        return "a number,"
    names = [_LETTERS.get(axis, axis.split(".")[-1]) for axis in argument.axes]
    if argument.operand and "h" in argument.axes:
        names[argument.axes.index("h")] = "key heads"
    return f"[{', '.join(names)}]"


def _default(argument: Argument) -> str:
    if argument.required:
        return ""
    if argument.computed or isinstance(argument.default, tuple):
        return ", by default its initial value"
    return f", by default {argument.default}"
