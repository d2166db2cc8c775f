"""Functions that generated kernels call, each one @triton.jit and correct under the interpreter.

The interpreter has no libdevice; what stands here does without.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
LEAST = tl.constexpr(-0x80000000)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def to_float(x):
    """An integer as float32 (a number that is no tensor yet has no `.to`).

    Times 1, which the compiler leaves out; adding 0 it would not, for the sake of -0.
    """
    return x * 1.0


@triton.jit
def near(place, since, short: tl.constexpr):
    """The distance place + since as float32. With `short` only what differs within a row, `place`:
    near the tile both are small, so that operands of 16 bits lose nothing."""
    if not short:
        place = place + since
    return to_float(place)


@triton.jit
def since(grown, short: tl.constexpr):
    """What `near` left out, as float32."""
    return to_float(grown) if short else grown * 0.0


@triton.jit
def fixed_top(highest, rows: tl.constexpr, fixed: tl.constexpr):
    """The maximum to start from, in base 2: none, or `fixed` below what no score exceeds."""
    top = tl.full([rows], float("-inf"), dtype=tl.float32)
    if fixed is not None:
        top = tl.zeros([rows], dtype=tl.float32) + (highest * 1.4426950408889634 - fixed)
    return top


@triton.jit
def reciprocal(x):
    """1 / x to the last place or two; 0 for what is too large to have one."""
    if INTERPRETED or not tl.target_info.is_cuda():
        return 1.0 / x
    return tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=r,r", [x], tl.float32, is_pure=True, pack=1
    )


@triton.jit
def floordiv(a, b):
    """Floor division; Triton's own truncates."""
    q = a // b
    r = a - q * b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)


@triton.jit
def floormod(a, b):
    """Remainder with the divisor's sign; Triton's own has the dividend's."""
    r = a - (a // b) * b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)


@triton.jit
def sqrt(x):
    """Square root."""
    return tl.sqrt(x)


@triton.jit
def rsqrt(x):
    """1 / square root."""
    return tl.rsqrt(x)


@triton.jit
def exp(x):
    """e ** x."""
    return tl.exp(x)


@triton.jit
def exp2(x):
    """2 ** x."""
    return tl.exp2(x)


@triton.jit
def log(x):
    """Natural logarithm."""
    return tl.log(x)


@triton.jit
def log2(x):
    """Logarithm in base 2."""
    return tl.log2(x)


@triton.jit
def log1p(x):
    """log(1 + x), exact for small x (the error of 1 + x is divided out)."""
    u = 1.0 + x
    d = u - 1.0
    return tl.where(d == 0.0, x, tl.log(u) * (x / tl.where(d == 0.0, 1.0, d)))


@triton.jit
def sin(x):
    """Sine."""
    return tl.sin(x)


@triton.jit
def cos(x):
    """Cosine."""
    return tl.cos(x)


@triton.jit
def atan(x):
    """Arc tangent: range reduction to |x| <= tan(pi/8), then an odd polynomial (Cephes)."""
    a = tl.abs(x)
    big = a > 2.414213562373095
    mid = a > 0.4142135623730950
    safe = tl.where(a == 0.0, 1.0, a)
    y = tl.where(big, 1.5707963267948966, tl.where(mid, 0.7853981633974483, 0.0))
    z = tl.where(big, -1.0 / safe, tl.where(mid, (a - 1.0) / (a + 1.0), a))
    s = z * z
    poly = ((8.05374449538e-2 * s - 1.38776856032e-1) * s + 1.99777106478e-1) * s
    y = y + (poly - 3.33329491539e-1) * s * z + z
    return tl.where(x < 0, -y, y)


@triton.jit
def sigmoid(x):
    """1 / (1 + e ** -x)."""
    return reciprocal(1.0 + tl.exp2(-1.4426950408889634 * x))


@triton.jit
def tanh(x, coarse: tl.constexpr = False):
    """Hyperbolic tangent; with `coarse` its error is 2 ** -22 of 1, not of the result.

    Otherwise a series near 0, where the quotient loses digits.
    """
    far = 1.0 - 2.0 * reciprocal(1.0 + tl.exp2(2.8853900817779268 * x))
    if coarse:
        return far
    s = x * x
    series = x * (1.0 + s * (-0.3333333333 + s * (0.1333333333 - s * 0.0539682540)))
    return tl.where(tl.abs(x) < 0.1, series, far)


@triton.jit
def soft_plus(x):
    """log(1 + e ** x)."""
    return tl.where(x > 0, x, 0.0) + log1p(tl.exp(-tl.abs(x)))


@triton.jit
def logsigmoid(x):
    """log(sigmoid(x))."""
    return -soft_plus(-x)


@triton.jit
def elu(x):
    """x where positive, else e ** x - 1."""
    return tl.where(x > 0, x, tl.exp(tl.where(x > 0, 0.0, x)) - 1.0)


@triton.jit
def leaky(x, slope):
    """x where positive, else slope * x."""
    return tl.where(x > 0, x, x * slope)


@triton.jit
def silu(x):
    """x * sigmoid(x)."""
    return x * sigmoid(x)


@triton.jit
def erf(x):
    """Error function."""
    return tl.erf(x)


@triton.jit
def gelu(x):
    """x times the normal distribution function."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def sign(x):
    """-1, 0 or 1."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))


@triton.jit
def in_order(x):
    """int32 in the order of float32 x, all above LEAST; -0 is 0, what is not a number above all."""
    bits = x.to(tl.int32, bitcast=True)
    whole = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(x != x, 0x7FFFFFFF, tl.where(x == 0.0, 0, whole))


@triton.jit
def power(x, n):
    """x ** n for a float n: through log2, negative x with an integral n by parity."""
    a = tl.abs(x)
    size = tl.exp2(n * tl.log2(tl.where(a == 0.0, 1.0, a)))
    zero = tl.where(n == 0.0, 1.0, tl.where(n < 0.0, float("inf"), 0.0))
    size = tl.where(a == 0.0, zero, size)
    half = n * 0.5
    odd = tl.floor(half) != half
    whole = tl.floor(n) == n
    negative = tl.where(whole, tl.where(odd, -size, size), float("nan"))
    return tl.where(x < 0, negative, size)


@triton.jit
def power_int(x, n):
    """x ** n of integers, 0 <= n < 32, by squaring."""
    base = x + 0 * n
    found = base * 0 + 1
    for _ in tl.static_range(5):
        found = tl.where(n % 2 == 1, found * base, found)
        base = base * base
        n = n // 2
    return found


@triton.jit
def philox(seed, sequence, row, column):
    """A number in (0, 1) for each pair as float32, the same as that of `runtime.random`."""
    zero = (row * 0 + column * 0).to(tl.int32)
    c0, c1, c2 = sequence + zero, row + zero, column + zero
    word, _, _, _ = tl.philox(seed, c0.to(tl.int32), c1.to(tl.int32), c2.to(tl.int32), zero)
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
