"""How an operation is spelled: in Triton, in PyTorch, and for plain Python numbers."""

from __future__ import annotations

from collections.abc import Iterable

from attnspec.dsl.ast import Kind

_COMMON = {
    "neg": "-{0}",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "floordiv_unsigned": "{0} // {1}",
    "mod_unsigned": "{0} % {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "stopgrad": "{0}",
    "constant": "{0}",
}

TRITON = _COMMON | {
    "not": "{0} == 0",
    "floordiv": "floordiv({0}, {1})",
    "mod": "floormod({0}, {1})",
    "floordiv_float": "tl.floor({0} / {1})",
    "mod_float": "{0} - tl.floor({0} / {1}) * {1}",
    "float": "to_float({0})",
    "near": "near({0}, {1}, SHORT)",
    "since": "since({0}, SHORT)",
    "quick_tanh": "tanh({0}, COARSE)",
    "where": "tl.where({0}, {1}, {2})",
    "min": "tl.minimum({0}, {1})",
    "max": "tl.maximum({0}, {1})",
    "clamp": "tl.minimum(tl.maximum({0}, {1}), {2})",
    "abs": "tl.abs({0})",
    "floor": "tl.floor({0})",
    "ceil": "tl.ceil({0})",
    "floor_int": "tl.floor({0}).to(tl.int32)",
    "ceil_int": "tl.ceil({0}).to(tl.int32)",
    "sign_int": "sign({0}).to(tl.int32)",
    "step": "tl.where({0} > 0, 1.0, 0.0)",
    "relu": "tl.where({0} <= 0, 0.0, {0})",
} | {
    name: f"{name}({{0}})"
    for name in (
        "sqrt", "rsqrt", "exp", "exp2", "log", "log2", "log1p", "sin", "cos", "atan", "tanh",
        "sigmoid", "logsigmoid", "elu", "silu", "gelu", "erf", "sign",
    )
} | {
    "softplus": "soft_plus({0})",
    "leaky_relu": "leaky({0}, {1})",
    "pow": "power({0}, {1})",
    "pow_int": "power_int({0}, {1})",
    "random": "philox({0}, {1}, {2}, {3})",
    "tempered": "tempered({0}, {1})",
    "tempered_bend": "bend({0}, {1})",
    "in_order": "in_order({0})",
    "running_i": "running({0}, {1}, {2}, q_start + M, {3}, {4})",
    "running_j": "running({0}, {1}, {2}, k_start + N, {3}, {4})",
}  # fmt: skip

TORCH = _COMMON | {
    "not": "~{0}",
    "floordiv": "quotient({0}, {1})",
    "mod": "remainder({0}, {1})",
    "floordiv_float": "torch.floor({0} / {1})",
    "mod_float": "{0} % {1}",
    "float": "{0}.to(wide)",
    "quick_tanh": "torch.tanh({0})",
    "where": "torch.where({0}, {1}, {2})",
    "min": "minimum({0}, {1})",
    "max": "maximum({0}, {1})",
    "clamp": "clamp({0}, {1}, {2})",
    "floor_int": "torch.floor({0}).long()",
    "ceil_int": "torch.ceil({0}).long()",
    "sign_int": "torch.sign({0})",
    "step": "({0} > 0).to({0}.dtype)",
    "stopgrad": "{0}.detach()",
    "pow": "torch.pow({0}, {1})",
    "pow_int": "torch.pow({0}, {1})",
    "elu": "torch.nn.functional.elu({0})",
    "leaky_relu": "leaky_relu({0}, {1})",
    "logsigmoid": "torch.nn.functional.logsigmoid({0})",
    "softplus": "softplus({0})",
    "logaddexp": "logaddexp({0}, {1})",
    "silu": "torch.nn.functional.silu({0})",
    "gelu": "torch.nn.functional.gelu({0})",
    "random": "random_tile({0}, {1}, {2}, {3})",
    "tempered": "tempered_tile({0}, {1})",
    "tempered_bend": "bend_tile({0}, {1})",
    "in_order": "order_tile({0})",
    "running_i": "running_tile({0}, {1}, {2}, -2, {3}, {4})",
    "running_j": "running_tile({0}, {1}, {2}, -1, {3}, {4})",
    "below": "below({0}, {1})",
    "upto": "upto({0}, {1})",
} | {
    name: f"torch.{name}({{0}})"
    for name in (
        "abs", "floor", "ceil", "sqrt", "rsqrt", "exp", "exp2", "log", "log2", "log1p", "sin",
        "cos", "atan", "tanh", "sigmoid", "relu", "erf", "sign",
    )
}  # fmt: skip

# One number after another, in loops that the compiler turns into vectors; see runtime/native.h.
CPP = _COMMON | {
    "div": "static_cast<float>({0}) / static_cast<float>({1})",
    "floordiv_unsigned": "quotient({0}, {1})",
    "mod_unsigned": "remainder_of({0}, {1})",
    "not": "!{0}",
    "floordiv": "quotient({0}, {1})",
    "mod": "remainder_of({0}, {1})",
    "floordiv_float": "std::floor({0} / {1})",
    "mod_float": "{0} - std::floor({0} / {1}) * {1}",
    "float": "static_cast<float>({0})",
    "quick_tanh": "tanh_of({0})",
    "where": "{0} ? {1} : {2}",
    "min": "least({0}, {1})",
    "max": "most({0}, {1})",
    "clamp": "least(most({0}, {1}), {2})",
    "abs": "std::abs({0})",
    "floor_int": "whole_of(std::floor({0}))",
    "ceil_int": "whole_of(std::ceil({0}))",
    "sign_int": "whole_of(sign_of({0}))",
    "step": "{0} > 0 ? 1.0f : 0.0f",
    "rsqrt": "1.0f / std::sqrt({0})",
    "pow_int": "power_of({0}, {1})",
    "elu": "{0} > 0 ? {0} : std::expm1({0})",
    "leaky_relu": "{0} > 0 ? {0} : {0} * {1}",
    "silu": "{0} * sigmoid_of({0})",
} | {
    name: f"std::{name}({{0}})"
    for name in ("floor", "ceil", "sqrt", "log", "log2", "log1p", "sin", "cos", "atan", "erf")
} | {
    name: f"{name}_of({{0}})"
    for name in (
        "exp", "exp2", "tanh", "sigmoid", "logsigmoid", "softplus", "gelu", "relu", "sign",
    )
} | {"pow": "std::pow({0}, {1})"}  # fmt: skip

# The size that a whole number of C++ cannot exceed, from those of what it is made of.
CPP_MOST = {
    "add": "{0} + {1}",
    "sub": "{0} + {1}",
    "mul": "{0} * {1}",
    "pow_int": "std::pow({0}, {1})",
    "floor_int": "2147483520.0",
    "ceil_int": "2147483520.0",
    "sign_int": "1.0",
    "where": "std::max({1}, {2})",
    "clamp": "std::max({{{0}, {1}, {2}}})",
    "mod": "std::max({0}, {1})",
    "mod_unsigned": "std::max({0}, {1})",
    "min": "std::max({0}, {1})",
    "max": "std::max({0}, {1})",
    "neg": "{0}",
    "floordiv": "{0}",
    "floordiv_unsigned": "{0}",
    "abs": "{0}",
    "stopgrad": "{0}",
    "constant": "{0}",
}

PYTHON = _COMMON | {
    "not": "not {0}",
    "and": "{0} and {1}",
    "or": "{0} or {1}",
    "pow_int": "{0} ** {1}",
    "float": "float({0})",
    "where": "{1} if {0} else {2}",
    "min": "min({0}, {1})",
    "max": "max({0}, {1})",
    "clamp": "min(max({0}, {1}), {2})",
    "abs": "abs({0})",
    "floordiv_float": "number_floor(number_div({0}, {1}))",
    "mod_float": "number_mod({0}, {1})",
    "floor_int": "number_floor({0})",
    "ceil_int": "number_ceil({0})",
    "exp": "number_exp({0})",
    "exp2": "number_pow(2.0, {0})",
    "sigmoid": "1 / (1 + number_exp(-{0}))",
    "logsigmoid": "min({0}, 0.0) - math.log1p(math.exp(-abs({0})))",
    "softplus": "max({0}, 0.0) + math.log1p(math.exp(-abs({0})))",
    "relu": "max({0}, 0.0)",
    "step": "1.0 if {0} > 0 else 0.0",
    "silu": "{0} / (1 + number_exp(-{0}))",
    "elu": "{0} if {0} > 0 else math.expm1({0})",
    "leaky_relu": "{0} if {0} > 0 else {0} * {1}",
    "gelu": "0.5 * {0} * (1 + math.erf({0} * math.sqrt(0.5)))",
    "sign": "({0} > 0) - ({0} < 0)",
    "sign_int": "({0} > 0) - ({0} < 0)",
} | {
    name: f"math.{name}({{0}})"
    for name in ("sin", "cos", "atan", "tanh", "erf")
} | {
    name: f"number_{name}({{0}})" for name in ("sqrt", "rsqrt", "log", "log2", "log1p")
} | {
    name: f"number_{name}({{0}}, {{1}})" for name in ("div", "floordiv", "mod", "pow")
}  # fmt: skip

# Where the arguments are known to lie inside the domain.
PYTHON_INSIDE = {
    "sqrt": "math.sqrt({0})",
    "rsqrt": "1 / math.sqrt({0})",
    "log": "math.log({0})",
    "log2": "math.log2({0})",
    "log1p": "math.log1p({0})",
    "div": "{0} / {1}",
    "floordiv": "{0} // {1}",
    "mod": "{0} % {1}",
    "pow": "{0} ** {1}",
}

# Around the kernels PyTorch differentiates; these pass a gradient of 0 on as 0.
HOST = TORCH | {
    name: f"safe_{name}({{0}})"
    for name in ("sqrt", "rsqrt", "log", "log2", "log1p", "exp", "exp2")
} | {name: f"safe_{name}({{0}}, {{1}})" for name in ("div", "pow")}  # fmt: skip


def spelled(op: str, kind: Kind) -> str:
    """The entry of a spelling table for an operation with a result of `kind`."""
    if op in ("floor", "ceil", "pow", "sign") and kind is Kind.INT:
        return f"{op}_int"
    if op in ("floordiv", "mod") and kind is Kind.FLOAT:
        return f"{op}_float"
    return op


def number(value: bool | int | float) -> str:
    """A number as a literal of Python."""
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    return repr(value)


def tuple_text(items: Iterable[str]) -> str:
    """Code for a tuple of what `items` are code for."""
    listed = list(items)
    return f"({', '.join(listed)}{',' if len(listed) == 1 else ''})"
