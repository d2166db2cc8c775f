"""Nothing reaches a generated module but what the templates mean to put there."""

from __future__ import annotations

import ast

_MODULES = {"math", "torch", "triton", "triton.language", "attnspec.runtime.generated"}
PROVIDED = frozenset(
    """Argument Bound Grid LN2 LOG2E Leaf Pairwise Signature Values all_heads amax amin
    as_columns as_rows atan backend_for bind clamp concatenate cos differentiable dot elu erf
    exp exp2 finite floordiv floormod gelu highest hold leaky leaky_relu load_pairs load_side load_tile log
    log1p log2 logsigmoid look_up lookup lowest maximum mean minimum no_forward_mode number_ceil
    number_div number_exp number_floor number_floordiv number_log number_log1p number_log2
    number_mod number_pow number_rsqrt number_sqrt over_pairs power power_int product rank rope
    rsqrt run_backward run_forward safe_div safe_exp safe_exp2 safe_log safe_log1p safe_log2
    safe_pow safe_rsqrt safe_sqrt sigmoid sign silu sin soft_plus softmax softplus spread sqrt store_pairs
    store_tile tanh to_float weighted wide_dtype""".split()
)
_BUILTINS = {"float", "int", "bool", "min", "max", "abs", "range", "KeyError"}
_MEMBERS = {
    "torch": """abs all amax amin any arange atan bool ceil cos cumsum einsum erf exp exp2 float64
    floor full int64 library log log1p log2 logsumexp nn relu rsqrt sigmoid sign sin sqrt tanh
    tensor where""".split(),
    "tl": """abs arange cdiv ceil constexpr exp2 float32 floor full int1 int32 int64 load log2 max
    maximum min minimum program_id range store sum tensor trans where zeros zeros_like""".split(),
    "triton": ["jit"],
    "math": "atan ceil cos erf exp expm1 floor log log1p log2 sin sqrt tanh".split(),
}
_METHODS = frozenset(
    """clamp code custom_op detach device dtype elu expand functional gelu items k_start
    log_softmax logsigmoid long masked_fill mean narrow permute q_start scalars shape silu sizes sum
    tensors to values view""".split()
)


class Disallowed(Exception):
    """Generated code that is not on the allow-list: a bug of the generator."""


def check_module(source: str) -> None:
    """Raise `Disallowed` unless `source` imports and calls known names only."""
    tree = ast.parse(source)
    known = PROVIDED | _BUILTINS
    known |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    for node in ast.walk(tree):
        if not _allowed(node, known):
            raise Disallowed(ast.unparse(node))


def _allowed(node: ast.AST, known: frozenset[str]) -> bool:
    match node:
        case ast.Import(names=names):
            return all(n.name in _MODULES for n in names)
        case ast.ImportFrom(module=module, names=names):
            return module in _MODULES and {n.name for n in names} <= PROVIDED | {"Tensor"}
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
