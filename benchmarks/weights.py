"""What an operation on every column of a tile adds to the loop of the forward kernel.

Compiles, for cuda:90 and without a GPU, a softmax over dot products plus a function of the key's
position, and prints by function the instructions a column that it takes more than the position
itself, those of the special function unit counted four times: the weights of codegen/keep.py.
Run it with `python -m benchmarks.weights`.
"""

from __future__ import annotations

import attnspec
from attnspec.runtime import aot
from attnspec.runtime.arrange import need
from attnspec.runtime.disassembly import instructions, tile_loops
from attnspec.runtime.tiles import config

TARGET, DTYPE, HEAD_DIM, THREADS = "cuda:90", "bf16", 64, 32
SLOW = 4  # clocks of the special function unit for one of the others'
NUMBER = "(j + 1.5)"
CALLS = (
    "sqrt rsqrt exp exp2 log log2 log1p sin cos atan tanh sigmoid silu softplus logsigmoid elu"
    " erf gelu"
)
FUNCTIONS = {name: f"{name}({NUMBER})" for name in CALLS.split()} | {
    "div": f"1 / {NUMBER}",
    "pow": f"{NUMBER} ** 1.7",
    "floordiv": "((j - 7) // width + 1.5)",
    "mod": "((j - 7) % width + 1.5)",
    "floordiv_unsigned": "(j // N + 1.5)",
    "mod_unsigned": "(j % N + 1.5)",
}


def per_column(term: str) -> float:
    """What the loop over full tiles takes of a warp for each column and score `dot + term`."""
    lines = ["attention a", f"score = dot(q[i], k[j]) / sqrt(D) + {term} * 0.01"]
    if "width" in term:
        lines.insert(1, "input width: int = 96 where width > 0")
    attention = attnspec.compile("\n".join(lines), name="a")
    call = aot.record(attention.spec, attention._generated, DTYPE, HEAD_DIM)
    tile = config(need(call, "forward"), TARGET)
    made = aot.compiled(attention._generated, "forward", call, TARGET, tile)
    loops = tile_loops(instructions(made.asm["cubin"]), 2 * HEAD_DIM)
    loop = min(loops, key=lambda found: found.per_element)
    columns = tile.block_n // 4  # of a thread: a quad of threads shares a row's columns
    slow = (SLOW - 1) * loop.mix["special function"]
    return (loop.instructions - loop.matrix + slow) / columns


def main() -> None:
    base = per_column(NUMBER)
    for name, term in FUNCTIONS.items():
        print(f"{name:<18}{per_column(term) - base:6.1f}", flush=True)


if __name__ == "__main__":
    main()
