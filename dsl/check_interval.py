"""Interval arithmetic over the reals, with open ends: exp is above 0, a softmax in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

INF = math.inf


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers between `lo` and `hi`; an open end is not reached."""

    lo: float = -INF
    hi: float = INF
    lo_open: bool = False
    hi_open: bool = False

    @property
    def positive(self) -> bool:
        """Whether every number is above 0."""
        return self.lo > 0 or (self.lo == 0 and self.lo_open)

    @property
    def negative(self) -> bool:
        """Whether every number is below 0."""
        return self.hi < 0 or (self.hi == 0 and self.hi_open)

    @property
    def nonzero(self) -> bool:
        """Whether 0 lies outside."""
        return self.positive or self.negative


TOP = Interval()
NONNEGATIVE = Interval(0, INF)
POSITIVE = Interval(0, INF, True)
UNIT = Interval(0, 1)

_End = tuple[float, bool]


def point(value: float) -> Interval:
    """One number."""
    return Interval(value, value)


def hull(a: Interval, b: Interval) -> Interval:
    """The smallest interval around both."""
    return _from_ends(
        [(a.lo, a.lo_open), (b.lo, b.lo_open)], [(a.hi, a.hi_open), (b.hi, b.hi_open)]
    )


def meet(a: Interval, b: Interval) -> Interval:
    """What lies in both (they are known to overlap)."""
    lo = max((a.lo, a.lo_open), (b.lo, b.lo_open))
    hi = min((a.hi, not a.hi_open), (b.hi, not b.hi_open))
    return Interval(lo[0], hi[0], lo[1], not hi[1])


def _from_ends(lows: list[_End], highs: list[_End]) -> Interval:
    lo = min(lows)  # a closed end (False) is further out than an open one
    hi = max((value, not is_open) for value, is_open in highs)
    return Interval(lo[0], hi[0], lo[1], not hi[1])


def _times(a: _End, b: _End) -> _End:
    if a[0] == 0 or b[0] == 0:
        reached = (a[0] == 0 and not a[1]) or (b[0] == 0 and not b[1])
        return 0.0, not reached
    return a[0] * b[0], a[1] or b[1]


def negate(a: Interval) -> Interval:
    """-a."""
    return Interval(-a.hi, -a.lo, a.hi_open, a.lo_open)


def add(a: Interval, b: Interval) -> Interval:
    """a + b."""
    lo, hi = a.lo + b.lo, a.hi + b.hi
    if math.isnan(lo) or math.isnan(hi):
        return TOP
    return Interval(lo, hi, a.lo_open or b.lo_open, a.hi_open or b.hi_open)


def multiply(a: Interval, b: Interval) -> Interval:
    """a * b."""
    ends = [
        _times(x, y)
        for x in ((a.lo, a.lo_open), (a.hi, a.hi_open))
        for y in ((b.lo, b.lo_open), (b.hi, b.hi_open))
    ]
    return _from_ends(ends, ends)


def invert(a: Interval) -> Interval:
    """1 / a."""
    if a.positive:
        if a.hi == 0:
            return TOP  # no number at all: the facts contradict each other
        high = INF if a.lo == 0 else 1 / a.lo
        return Interval(0.0 if a.hi == INF else 1 / a.hi, high, a.hi == INF or a.hi_open, a.lo_open)
    return negate(invert(negate(a))) if a.negative else TOP


def power(a: Interval, b: Interval) -> Interval:
    """a ** b."""
    exponent = b.lo if b.lo == b.hi else None
    if exponent is not None and exponent > 0 and a.lo >= 0:
        return Interval(_raised(a.lo, exponent), _raised(a.hi, exponent), a.lo_open, a.hi_open)
    if exponent is not None and exponent == int(exponent) and exponent % 2 == 0:
        return POSITIVE if a.nonzero else NONNEGATIVE
    if a.lo >= 1 and b.lo >= 0:
        return Interval(1, INF)
    if a.positive:
        return UNIT if a.hi <= 1 and b.lo >= 0 else POSITIVE
    return NONNEGATIVE if a.lo >= 0 else TOP


def _raised(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    except OverflowError:
        return INF


def absolute(a: Interval) -> Interval:
    """|a|."""
    if a.lo >= 0:
        return a
    if a.hi <= 0:
        return negate(a)
    return Interval(0, max(-a.lo, a.hi))


def maximum(a: Interval, b: Interval) -> Interval:
    """The larger of two."""
    lo = max((a.lo, a.lo_open), (b.lo, b.lo_open))
    hi = max((a.hi, not a.hi_open), (b.hi, not b.hi_open))
    return Interval(lo[0], hi[0], lo[1], not hi[1])


def minimum(a: Interval, b: Interval) -> Interval:
    """The smaller of two."""
    return negate(maximum(negate(a), negate(b)))


def _ceil(a: Interval) -> Interval:
    lo = a.lo if math.isinf(a.lo) else math.ceil(a.lo) + (a.lo_open and a.lo == math.ceil(a.lo))
    return Interval(lo, a.hi if math.isinf(a.hi) else math.ceil(a.hi))


def _monotone(
    function: Callable[[float], float], outer: Interval
) -> Callable[[Interval], Interval]:
    """The image under an increasing function whose values lie in `outer`."""

    def end(value: float, is_open: bool, limit: _End) -> _End:
        if math.isinf(value):
            return limit
        try:
            return function(value), is_open
        except (OverflowError, ValueError):
            return limit

    def image(a: Interval) -> Interval:
        low = end(a.lo, a.lo_open, (outer.lo, outer.lo_open))
        high = end(a.hi, a.hi_open, (outer.hi, outer.hi_open))
        # What rounds to a limit does not reach it.
        return Interval(
            low[0],
            high[0],
            low[1] or (low[0] == outer.lo and outer.lo_open),
            high[1] or (high[0] == outer.hi and outer.hi_open),
        )

    return image


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


_OPEN_UNIT = Interval(0, 1, True, True)
_OPEN_SIGN = Interval(-1, 1, True, True)

FUNCTIONS: Mapping[str, Callable[[Interval], Interval]] = {
    "neg": negate,
    "abs": absolute,
    "exp": _monotone(math.exp, POSITIVE),
    "exp2": _monotone(lambda x: 2.0**x, POSITIVE),
    "log": _monotone(math.log, TOP),
    "log2": _monotone(math.log2, TOP),
    "log1p": _monotone(math.log1p, TOP),
    "sqrt": _monotone(math.sqrt, NONNEGATIVE),
    "rsqrt": lambda a: POSITIVE,
    "sigmoid": _monotone(_sigmoid, _OPEN_UNIT),
    "tanh": _monotone(math.tanh, _OPEN_SIGN),
    "erf": _monotone(math.erf, _OPEN_SIGN),
    "atan": _monotone(math.atan, Interval(-math.pi / 2, math.pi / 2, True, True)),
    "softplus": lambda a: POSITIVE,
    "logsigmoid": lambda a: negate(POSITIVE),
    "relu": lambda a: maximum(a, point(0)),
    "leaky_relu": lambda a: NONNEGATIVE if a.lo >= 0 else TOP,
    "elu": _monotone(lambda x: x if x > 0 else math.expm1(x), Interval(-1, INF, True)),
    "silu": lambda a: NONNEGATIVE if a.lo >= 0 else Interval(-0.279, INF),
    "gelu": lambda a: NONNEGATIVE if a.lo >= 0 else Interval(-0.17, INF),
    "sin": lambda a: Interval(-1, 1),
    "cos": lambda a: Interval(-1, 1),
    "sign": _monotone(lambda x: float((x > 0) - (x < 0)), Interval(-1, 1)),
    "floor": lambda a: negate(_ceil(negate(a))),
    "ceil": _ceil,
    "stopgrad": lambda a: a,
}
