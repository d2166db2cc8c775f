"""SymPy's part: a score as a function of its leaves, and its derivatives.

Every function of the language is an undefined function with its own derivative, so SymPy
neither rewrites it into something that cannot be printed nor changes its rounding; it sorts
sums and products, folds numbers and applies the chain rule. Conventions at kinks are PyTorch's:
`abs`, `relu` and `sign` have derivative 0 at 0, `min` and `max` share a tie equally.
"""

from __future__ import annotations

from math import log, pi, sqrt
from typing import Any

import sympy as sp


class Fn(sp.Function):  # type: ignore[misc]
    """A function of the language; `op` is its name there. Never evaluates itself."""

    op = ""

    def fdiff(self, argindex: int = 1) -> Any:
        rule = DERIVATIVES.get(type(self).op)
        if rule is None:
            return sp.S.Zero
        return rule(self, *self.args)[argindex - 1]


def _function(name: str) -> type[Fn]:
    return type(f"fn_{name}", (Fn,), {"op": name})


class Where(Fn):
    """where(c, a, b): the derivative selects too, so the branch not taken never leaks in."""

    op = "where"

    def _eval_derivative(self, symbol: Any) -> Any:
        condition, yes, no = self.args
        d_yes, d_no = yes.diff(symbol), no.diff(symbol)
        return d_yes if d_yes == d_no else Where(condition, d_yes, d_no)


class Total(Fn):
    """The sum over channels that its first argument names, of terms of the numbers that follow,
    behind each the name of the sum's derivative to it."""

    op = "total"

    def fdiff(self, argindex: int = 1) -> Any:
        if argindex == 1:
            return sp.S.One
        return self.args[argindex] if argindex % 2 == 0 else sp.S.Zero


_NAMES = (
    "abs min max clamp floor ceil sqrt rsqrt exp exp2 log log2 log1p sin cos atan tanh sigmoid "
    "logsigmoid softplus relu leaky_relu elu silu gelu erf sign stopgrad pow float "
    "lt le gt ge eq step mod floordiv quick_tanh tempered tempered_bend"
)
FUNCTIONS: dict[str, type[Fn]] = {name: _function(name) for name in _NAMES.split()}
FUNCTIONS["where"] = Where

_F = FUNCTIONS
_HALF = sp.Float(0.5)


def _less(a: Any, b: Any) -> Any:
    """d min(a, b) / da: 1 where a < b, one half on a tie."""
    return Where(_F["lt"](a, b), 1, Where(_F["eq"](a, b), _HALF, 0))


def _clamped(x: Any, low: Any, high: Any) -> tuple[Any, Any, Any]:
    below, above = _F["lt"](x, low), _F["gt"](x, high)
    return Where(below, 0, Where(above, 0, 1)), Where(below, 1, 0), Where(above, 1, 0)


def _log(x: Any) -> Any:
    return sp.Float(log(x)) if x.is_number and x > 0 else _F["log"](x)


DERIVATIVES: dict[str, Any] = {
    "abs": lambda y, x: (_F["sign"](x),),
    "min": lambda y, a, b: (_less(a, b), _less(b, a)),
    "max": lambda y, a, b: (_less(b, a), _less(a, b)),
    "clamp": lambda y, x, low, high: _clamped(x, low, high),
    "sqrt": lambda y, x: (_HALF / y,),
    "rsqrt": lambda y, x: (-_HALF * y**3,),
    "exp": lambda y, x: (y,),
    "exp2": lambda y, x: (y * sp.Float(log(2)),),
    "log": lambda y, x: (1 / x,),
    "log2": lambda y, x: (sp.Float(1 / log(2)) / x,),
    "log1p": lambda y, x: (1 / (1 + x),),
    "sin": lambda y, x: (_F["cos"](x),),
    "cos": lambda y, x: (-_F["sin"](x),),
    "atan": lambda y, x: (1 / (1 + x**2),),
    "tanh": lambda y, x: (1 - y**2,),
    "sigmoid": lambda y, x: (y * (1 - y),),
    "logsigmoid": lambda y, x: (_F["sigmoid"](-x),),
    "softplus": lambda y, x: (_F["sigmoid"](x),),
    "relu": lambda y, x: (_F["step"](x),),
    "leaky_relu": lambda y, x, slope: (
        Where(_F["gt"](x, 0), 1, slope),
        Where(_F["gt"](x, 0), 0, x),
    ),
    "elu": lambda y, x: (Where(_F["gt"](x, 0), 1, _F["exp"](x)),),
    "silu": lambda y, x: (_F["sigmoid"](x) * (1 + x * (1 - _F["sigmoid"](x))),),
    "gelu": lambda y, x: (
        _HALF * (1 + _F["erf"](x * sp.Float(sqrt(0.5))))
        + x * sp.Float(1 / sqrt(2 * pi)) * _F["exp"](-_HALF * x**2),
    ),
    "erf": lambda y, x: (sp.Float(2 / sqrt(pi)) * _F["exp"](-(x**2)),),
    "pow": lambda y, x, n: (n * _F["pow"](x, n - 1), y * _log(x)),
    "tempered": lambda y, z, a: (_tempered(z, a, True), y * _F["tempered_bend"](z, a)),
    "float": lambda y, x: (1,),
    "mod": lambda y, x, n: (1, -_F["floordiv"](x, n)),
}


# Functions over others whose value their derivative shares. Only forms that are as exact as the
# whole: softplus and logsigmoid have theirs, sigmoid(x), from their own value as 1 - exp(-y), which
# cancels, or as exp(x - y), which is not a number where x is infinite.
EXPANSIONS: dict[str, Any] = {
    "elu": lambda x: Where(_F["gt"](x, 0), x, _F["exp"](x) - 1),
    "gelu": lambda x: _HALF * x * (1 + _F["erf"](x * sp.Float(sqrt(0.5)))),
    "silu": lambda x: x * _F["sigmoid"](x),
}


def apply(op: str, args: list[Any]) -> Any:
    """The SymPy form of an operation of the language on SymPy arguments."""
    match op, args:
        case "neg", [x]:
            return -x
        case "add", _:
            return sp.Add(*args)
        case "sub", [a, b]:
            return a - b
        case "mul", _:
            return sp.Mul(*args)
        case "div", [a, b]:
            return a / b
        case "pow", [x, n] if n.is_Number and float(n).is_integer() and -8 <= n <= 8:
            return x ** int(n)
        case (("min" | "max"), [first, *rest]):
            for other in rest:
                first = FUNCTIONS[op](first, other)
            return first
        case (("tempered" | "tempered_slope"), [z, a]):
            return _tempered(z, a, op == "tempered_slope")
        case _:
            return FUNCTIONS[op](*args)


def _tempered(z: Any, a: Any, lessened: int) -> Any:
    """(1 + a z) ** (1 / a) where the base is above 0, else 0, or (`lessened`) its derivative to z.

    A product where 1 / a is a small whole number (a decimal like 0.2 means 5), which the base is
    then cut off for; else a function of its own.
    """
    power = 0 if not a.is_Number else round(1 / float(a))
    whole = 1 <= power <= 8 and abs(power * float(a) - 1) < 1e-9
    base = 1 + z * (sp.Rational(1, power) if whole else a)
    outside = _F["le"](base, sp.Integer(0))  # which is not true of what is not a number
    if whole:
        return Where(outside, sp.Integer(0), base ** (power - lessened))
    value = _F["tempered"](z, a)
    return value / Where(outside, sp.Integer(1), base) if lessened else value


def derivatives(expr: Any, leaves: list[str]) -> dict[str, Any]:
    """d expr / d leaf for every leaf by name."""
    return {name: sp.diff(expr, sp.Symbol(name)) for name in leaves}
