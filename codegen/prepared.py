"""A spec as passes read it: constructs that no pass knows, written by those that one does."""

from __future__ import annotations

from attnspec.codegen.rewrite_blocks import with_blocks
from attnspec.codegen.rewrite_distances import with_distances
from attnspec.codegen.rewrite_heads import with_heads
from attnspec.codegen.rewrite_masked import with_masked
from attnspec.codegen.rewrite_orders import with_orders
from attnspec.codegen.rewrite_ropes import with_ropes
from attnspec.codegen.rewrite_turned import with_turned
from attnspec.dsl.ast import Spec


def prepared(spec: Spec) -> Spec:
    """`spec` with rotations at positions of pairs, reductions over their heads, orders of their
    channels, reductions over blocks and definitions read at each other's tokens written out, and
    every definition over all that it depends on; `plan` and `render` start from this."""
    plain = with_orders(with_heads(with_ropes(with_masked(spec))))
    return with_distances(with_turned(with_blocks(plain)))
