"""Nothing reaches a generated module but what the templates mean to put there."""

from __future__ import annotations

import ast
from importlib import resources


def _exported(file: str) -> frozenset[str]:
    """What a file of `runtime` re-exports, read from its text: importing it needs torch."""
    text = (resources.files("attnspec") / "runtime" / file).read_text()
    nodes = [n for n in ast.parse(text).body if isinstance(n, ast.Import | ast.ImportFrom)]
    return frozenset(name.asname or name.name for node in nodes for name in node.names)


PROVIDED, LANGUAGE = _exported("generated.py"), _exported("language.py")
_MODULES = {
    "__future__": {"annotations"},
    "typing": {"TYPE_CHECKING"},
    "torch": {"Tensor"},
    "attnspec.runtime.generated": PROVIDED,
    "attnspec.runtime.language": LANGUAGE,
}
_BUILTINS = {"float", "int", "bool", "min", "max", "abs", "range", "KeyError"}
_MEMBERS = {
    "torch": """abs all amax amin any arange atan bool ceil cos cumsum einsum erf exp exp2 float64
    floor full int32 int64 log log1p log2 nn no_grad pow relu rsqrt sigmoid sign sin sqrt tanh
    tensor where""".split(),
    "tl": """abs arange cdiv ceil constexpr exp2 float32 floor full int1 int32 int64 load log2 max
    maximum min minimum program_id range store sum tensor trans where zeros zeros_like""".split(),
    "math": "atan ceil cos erf exp expm1 floor log log1p log2 sin sqrt tanh".split(),
}
_METHODS = frozenset(
    """bind clamp code detach device dtype elu expand fixed flatten functional gelu items
    k_start log_softmax logsigmoid long masked_fill mean narrow permute q_start scalars shape silu
    sizes sum tensors to unsqueeze values view""".split()
)


class Disallowed(Exception):
    """Generated code that is not on the allow-list: a bug of the generator."""


def check_module(source: str) -> frozenset[str]:
    """The names in `source`; raises `Disallowed` unless it imports and calls known ones only."""
    nodes = list(ast.walk(ast.parse(source)))
    defined = {n.name for n in nodes if isinstance(n, ast.FunctionDef)}
    for node in nodes:
        match node:
            case ast.Assign([ast.Name(made)], ast.Call(ast.Name("differentiable" | "traceable"))):
                defined.add(made)
    known = PROVIDED | LANGUAGE | _BUILTINS | defined
    for node in nodes:
        if not _allowed(node, known):
            raise Disallowed(ast.unparse(node))
    return frozenset(n.id for n in nodes if isinstance(n, ast.Name))


def _allowed(node: ast.AST, known: frozenset[str]) -> bool:
    match node:
        case ast.Import(names=names):
            return all(n.name in ("math", "torch") for n in names)
        case ast.ImportFrom(module=module, names=names):
            return {n.name for n in names} <= _MODULES.get(module or "", set())
        case ast.Attribute(value=ast.Name(id=root), attr=attr) if root in _MEMBERS:
            return attr in _MEMBERS[root]
        case ast.Attribute(attr=attr):
            return attr in _METHODS
        case ast.Name(id=name):
            return not name.startswith("__")
        case ast.Call(func=ast.Name(id=name)):
            return name in known
        case ast.Call(func=func):
            return isinstance(func, ast.Attribute)
        case ast.Lambda() | ast.ClassDef() | ast.AsyncFunctionDef() | ast.Global():
            return False
    return True
