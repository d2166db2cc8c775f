"""The CPU default: the kernels' plan run tile by tile in PyTorch, memory linear in the length.

Sums run in the operands' own precision, at least float32; the order is fixed, so results repeat
bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from attnspec.runtime.cpu_tiles import (
    Place,
    Tile,
    blocks,
    by_head,
    by_key_head,
    channels,
    fill,
    fixed_values,
    left_operands,
    row_values,
    tiles,
)
from attnspec.runtime.host_functions import lowest
from attnspec.runtime.problem import WIDE, Branch, ChannelSum, Leaf, Problem, Scan, Values
from attnspec.runtime.running import block_sums, by_run, running

ALL = slice(None)


@dataclass(slots=True)
class _Sums:
    """What one weight adds up to over the columns of a block of rows: `acc` of values, and of a
    softmax the weights against `top`, their `total`."""

    branch: Branch
    acc: Tensor
    top: Tensor
    total: Tensor

    def relate(self, logits: Tensor, valued: bool) -> None:
        """Make of logits the weights against a maximum that counts them, too, and add those up."""
        new = torch.maximum(self.top, logits.amax(-1, keepdim=True))
        safe = torch.where(torch.isneginf(new), 0.0, new)
        weights = logits.sub_(safe).exp_()
        scale = torch.exp(self.top - safe)
        self.total = self.total * scale + weights.sum(-1, keepdim=True)
        self.top = new
        if valued:
            self.acc.mul_(scale)

    def finish(self, call: Problem, rows: Place) -> Tensor:
        """Divide by the total, which a sink adds to; gives the log-sum-exp [B, H, m]."""
        empty = self.total == 0
        if self.branch.sink is not None:
            sink = call.tensors[self.branch.sink][:, :, rows, None].to(call.wide)
            new = torch.maximum(self.top, sink)
            safe = torch.where(torch.isneginf(new), 0.0, new)
            scale = torch.where(empty, 0.0, torch.exp(self.top - safe))
            self.total, self.top = self.total * scale + torch.exp(sink - safe), new
            self.acc.mul_(scale)
        if call.value is not None:
            self.acc.div_(torch.where(empty, 1.0, self.total))
        return (self.top + torch.log(self.total)).squeeze(-1)


def forward(call: Problem) -> tuple[Tensor, ...]:
    """What the pass gives, before any gate: the weighted sum [B, H, M, E], a sum [B, H, M], the
    weights [B, H, M, N] or what they add up to for each entry [B, H, M, L]; the natural
    log-sum-exp [B, H, M] of a softmax; either may be empty: there is none. Where there are several
    weights, also the weighted sum of each softmax alone [S, B, H, M, E], the log-sum-exps then
    being [S, B, H, M].
    """
    plan, wide = call.plan, call.wide
    shape = (call.batch, call.heads, call.rows)
    none = float("-inf")
    lses = [torch.full(shape, none, dtype=wide, device=call.device) for _ in plan.weights]
    outs = [_nothing(call, lse) for lse in lses]
    clean = call.value is None or bool(torch.isfinite(call.value).all())
    fixed = fixed_values(call)
    for block in blocks(call):
        rows = block.rows
        values = row_values(call, fixed, rows)
        left = left_operands(call, rows)
        sums = []
        for branch, out, lse in zip(plan.weights, outs, lses, strict=True):
            top = lse[:, :, rows, None].clone()
            # zeros; a copy where the rows are those of a patch
            sums.append(_Sums(branch, out[:, :, rows], top, torch.zeros_like(top)))
        for tile in tiles(call, values, block):
            weights = _weights(call, values, left, tile)
            for found, out, weight in zip(sums, outs, weights, strict=True):
                if found.branch.softmax:
                    found.relate(weight, plan.value is not None)
                if plan.form == "map":
                    out[tile.of(out)] = weight
                elif plan.form == "blocks":
                    out[tile.blocked("column_blocks").of(out)] = block_sums(weight, -1)
                elif plan.form == "entries":
                    found.acc.scatter_add_(3, _entry(call, values, tile), weight)
                elif plan.value is not None:
                    found.acc.add_(_contribution(call, weight, tile, clean))
                elif not plan.softmax:
                    found.acc.add_(weight.sum(-1))
        for found, out, lse in zip(sums, outs, lses, strict=True):
            if found.branch.softmax:
                lse[:, :, rows] = found.finish(call, rows)
            if isinstance(rows, Tensor) and plan.form != "map":
                out[:, :, rows] = found.acc
    nothing, count = lses[0].new_empty(0), plan.softmaxes
    if plan.branches:
        each = [_times(coefficient(call, w), x) for w, x in zip(plan.weights, outs, strict=True)]
        return reduce(add, each), torch.stack(lses[:count]), torch.stack(outs[:count])
    if not plan.softmax:
        return outs[0], nothing
    return nothing if plan.value is None else outs[0], lses[0]


def coefficient(call: Problem, weight: Branch, rows: Place = ALL) -> Tensor | float:
    """What the softmax of some rows is multiplied by, [B, H, m, 1] or a number."""
    found = weight.coefficient
    return call.tensors[found][:, :, rows, None].to(call.wide) if isinstance(found, str) else found


def positions(call: Problem) -> Tensor:
    """[B, H, M]: where each row has its largest weight, the first of equal ones; -1 where it has
    no pair. What is not a number is above all."""
    none = call.columns
    shape = (call.batch, call.heads, call.rows)
    out = torch.full(shape, none, device=call.device)
    columns = torch.arange(none, device=call.device)
    fixed = fixed_values(call)
    for block in blocks(call):
        values = row_values(call, fixed, block.rows)
        left = left_operands(call, block.rows)
        first = out[:, :, block.rows, None]
        top: Tensor | None = None
        for tile in tiles(call, values, block):
            fill(call, values, left, tile)
            keep, weight = call.plan.tile(values, tile.masked)
            weight = weight.to(call.wide if weight.is_floating_point() else torch.int64)
            weight, low = weight.expand(tile.shape(call)), lowest(weight)
            top = torch.full_like(weight[..., :1], low) if top is None else top
            kept = weight if keep is None else torch.where(keep, weight, low)
            higher = torch.maximum(top, kept.amax(-1, keepdim=True))
            found = _reaches(kept, higher) if keep is None else keep & _reaches(kept, higher)
            at = torch.where(found, columns[tile.columns], none).amin(-1, keepdim=True)
            first = torch.minimum(torch.where(_reaches(top, higher), first, none), at)
            top = higher
        out[:, :, block.rows] = first.squeeze(-1)
    return torch.where(out == none, -1, out + call.k_start)


def _reaches(x: Tensor, top: Tensor) -> Tensor:
    """Whether x is `top`, which it does not exceed; one that is not a number is like any other."""
    return (x == top) | x.isnan()


def _nothing(call: Problem, lse: Tensor) -> Tensor:
    """The output before anything is added to it."""
    if call.value is not None:
        return lse.new_zeros((*lse.shape, call.value.shape[-1]))
    if call.plan.form in WIDE:
        return lse.new_zeros((*lse.shape, call.width))
    return torch.zeros_like(lse)


def _weights(call: Problem, values: Values, left: Sequence[Tensor], tile: Tile) -> Iterator[Tensor]:
    """Logits or weights [B, H, m, n] of each, excluded pairs at -inf or 0, in memory of their
    own."""
    fill(call, values, left, tile)
    keep, *scores = call.plan.tile(values, tile.masked)
    for weight, score in zip(call.plan.weights, scores, strict=True):
        spread = score.to(call.wide).expand(tile.shape(call))
        none = float("-inf") if weight.softmax else 0.0
        yield spread.clone() if keep is None else torch.where(keep, spread, none)


def _contribution(call: Problem, weight: Tensor, tile: Tile, clean: bool) -> Tensor:
    """weight @ value in which a value that is not finite counts only where the weight is not 0."""
    assert call.value is not None
    p, v = by_key_head(weight, call), call.value[:, :, tile.columns].to(call.wide)
    if clean or not tile.masked:
        return by_head(p @ v, call)
    bad = ~torch.isfinite(v)
    reached = (p != 0).to(v.dtype) @ bad.to(v.dtype)
    out = (p @ v.masked_fill(bad, 0.0)).masked_fill(reached > 0, float("nan"))
    return by_head(out, call)


def backward(
    call: Problem,
    grads: tuple[Tensor, Tensor],
    lse: Tensor,
    delta: Tensor,
    wanted: frozenset[str],
) -> dict[str, Tensor]:
    """Gradients by operand name, in the operands' shapes.

    `grads` are those of what the pass gives before and after any gate, `delta` what each softmax
    subtracts, of the shape of `lse`. Only operands in `wanted` get one.
    """
    plan, wide = call.plan, call.wide
    grad, of_gated = grads
    rows_of = plan.softmaxes, call.batch, call.heads, call.rows
    lse, delta = lse.view(rows_of), delta.view(rows_of)
    of_row = {n for weight in plan.weights for n in weight.of_row}
    out = {
        n: torch.zeros(call.tensors[n].shape, dtype=wide, device=grad.device)
        for n in plan.grads
        if n in wanted and n != plan.gate and n not in of_row
    }
    ungated = torch.zeros_like(of_gated, dtype=wide) if plan.gate in wanted else None
    clean = call.value is None or bool(torch.isfinite(call.value).all())
    fixed = fixed_values(call)
    leaves = {leaf.name: leaf for leaf in plan.leaves}
    sums = {part.name: part for part in plan.sums}
    for block in blocks(call):
        rows = block.rows
        values = row_values(call, fixed, rows)
        left = left_operands(call, rows)
        d_out = grad[:, :, rows].to(wide) if grad.dim() > 2 else grad
        if call.value is not None:
            d_out = by_key_head(d_out, call)
        for tile in tiles(call, values, block):
            fill(call, values, left, tile, backward=True)
            keep, *found = plan.slopes(values, tile.masked)
            d_weight = _upstream(call, values, grad, d_out, tile)
            if plan.form in WIDE:
                # where nothing comes from, nothing flows, whatever the slope
                keep = d_weight != 0 if keep is None else keep & (d_weight != 0)
            weight, d_scores = _gradients(call, found[::2], d_weight, (lse, delta), tile)
            if keep is not None:
                weight = torch.where(keep, weight, 0.0)
            if ungated is not None:
                ungated[:, :, rows] += _contribution(call, weight, tile, clean)
            if plan.value in out:
                p = by_key_head(weight, call)
                out[plan.value][:, :, tile.columns] += p.transpose(-1, -2) @ d_out
            share = _Share(call, values, left, tile, out)
            shares: dict[str, Tensor] = {}
            for name, *slopes in zip(plan.wanted, *found[1::2], strict=True):
                d_score = _chained(d_scores, slopes)
                shares[name] = d_score if keep is None else torch.where(keep, d_score, 0.0)
            for scan in reversed(plan.scans):  # one that is part of another comes before that
                share.add_scan(scan, shares)
            for name, d_score in shares.items():
                if name in leaves:
                    share.add_leaf(leaves[name], d_score)
                elif name in sums:
                    share.add_vectors(sums[name], d_score, d_score != 0 if plan.scans else keep)
                else:
                    share.add_dot(name, d_score)
    if ungated is not None and plan.gate is not None:
        out[plan.gate] = of_gate(call, ungated, of_gated)
    return out


def of_gate(call: Problem, ungated: Tensor, of_gated: Tensor) -> Tensor:
    """The gradient of the gate from that of the gated output; `ungated` [B, H, M, E] is lost."""
    assert call.plan.gate is not None
    found = ungated.mul_(of_gated.to(call.wide))
    vectors = call.tensors[call.plan.gate].dim() == found.dim()
    return found if vectors else found.sum(-1)


def _gradients(
    call: Problem,
    scores: Sequence[Tensor],
    d_weight: Tensor,
    saved: tuple[Tensor, Tensor],
    tile: Tile,
) -> tuple[Tensor, list[Tensor]]:
    """The sum of all weights of a tile, and the gradient of the score of each, from that of the
    sum; `saved` are the log-sum-exps and what softmaxes subtract."""
    weights, d_scores = list[Tensor](), list[Tensor]()
    for place, (branch, score) in enumerate(zip(call.plan.weights, scores, strict=True)):
        weight, d_score = score.to(call.wide).expand(tile.shape(call)), d_weight
        by = coefficient(call, branch, tile.rows)
        if branch.softmax:
            lse, delta = (x[place][:, :, tile.rows, None] for x in saved)
            weight = torch.exp(weight - lse)
            d_score = weight * (_times(by, d_weight) - delta)
        weights.append(_times(by, weight))
        d_scores.append(d_score)
    return reduce(add, weights), d_scores


def _times(by: Tensor | float, x: Tensor) -> Tensor:
    return x if isinstance(by, float) and by == 1.0 else by * x


def _chained(d_scores: Sequence[Tensor], slopes: Sequence[Tensor | float]) -> Tensor:
    """The gradient of what scores have the `slopes` by, from theirs."""
    some = [d * s for d, s in zip(d_scores, slopes, strict=True) if isinstance(s, Tensor) or s != 0]
    return reduce(add, some) if some else torch.zeros_like(d_scores[0])


def _upstream(call: Problem, values: Values, grad: Tensor, d_out: Tensor, tile: Tile) -> Tensor:
    """The gradient of a tile's weights; `d_out` is `grad` at its rows, vectors by key head."""
    if call.value is not None:
        v = call.value[:, :, tile.columns].to(call.wide)
        return by_head(d_out @ v.transpose(-1, -2), call)
    if call.plan.form == "map":
        return grad[tile.of(grad)].to(call.wide)
    if call.plan.form == "blocks":
        parts = grad[tile.blocked("column_blocks").of(grad)].to(call.wide)
        return by_run(parts, -1, tile.shape(call)[-1])
    if call.plan.form == "entries":
        return d_out.gather(3, _entry(call, values, tile))
    none = call.plan.softmax  # but its log-sum-exp
    whole = torch.zeros((), dtype=call.wide, device=grad.device) if none else d_out[..., None]
    return whole.expand(tile.shape(call))


def _entry(call: Problem, values: Values, tile: Tile) -> Tensor:
    """[B, H, m, n]: the entry that each pair of a tile counts for; any where it is excluded."""
    at: Tensor = call.plan.indices(values)["out"].clamp(0, call.entries - 1)
    return at.expand(tile.shape(call))


@dataclass(frozen=True, slots=True)
class _Share:
    """Adds one tile's share of every gradient to `out`."""

    call: Problem
    values: Values
    left: Sequence[Tensor]
    tile: Tile
    out: dict[str, Tensor]

    def add_dot(self, name: str, d_score: Tensor) -> None:
        call, tile = self.call, self.tile
        place = [n for n, _, _ in call.plan.dots].index(name)
        _, x, y = call.plan.dots[place]
        right, left = call.tensors[y][:, :, tile.columns].to(call.wide), self.left[place]
        if tile.masked:
            right, left = _finite(right), _finite(left)
        flat = by_key_head(d_score, call)
        if x in self.out:
            self.out[x][:, :, tile.rows] += by_head(flat @ right, call)
        if y in self.out:
            self.out[y][:, :, tile.columns] += flat.transpose(-1, -2) @ left

    def add_scan(self, scan: Scan, shares: dict[str, Tensor]) -> None:
        """Take the share of a running sum from `shares`, and add to them what flows on."""
        share = shares.pop(scan.name, None)
        if share is None or scan.slopes is None:
            return
        dim = -2 if scan.side == "i" else -1
        if scan.carried in self.out:
            into, role = self.out[scan.carried], "row_blocks" if dim == -2 else "column_blocks"
            place = self.tile.blocked(role).of(into)
            into[place] += block_sums(share, dim).sum_to_size(into[place].shape)
        flows = running(share, dim, not scan.after, scan.own)
        for name, slope in zip(scan.wanted, scan.slopes(self.values), strict=True):
            shares[name] = shares[name] + torch.where(flows == 0, 0.0, flows * slope)

    def add_vectors(self, part: ChannelSum, d_score: Tensor, keep: Tensor | None) -> None:
        call, tile = self.call, self.tile
        for channel in channels(call, self.values, part, tile):
            slopes = iter(part.slopes(self.values))
            for vector in part.vectors:
                if not vector.grad:
                    continue
                slope = next(slopes)
                if vector.operand not in self.out:
                    continue
                d_term = d_score * slope
                if keep is not None:
                    d_term = torch.where(keep, d_term, 0.0)
                into = self.out[vector.operand][..., channel]
                match vector.role:
                    case "row":
                        into[:, :, tile.rows] += d_term.sum(-1)
                    case "column":
                        by_group = d_term.sum(-2).unflatten(1, (-1, call.groups)).sum(2)
                        into[:, :, tile.columns] += by_group
                    case _:
                        into += d_term.sum((-1, -2))

    def add_leaf(self, leaf: Leaf, d_score: Tensor) -> None:
        if leaf.operand not in self.out:
            return
        call, tile, into = self.call, self.tile, self.out[leaf.operand]
        match leaf.role:
            case "row":
                into[:, :, tile.rows] += d_score.sum(-1)
            case "column":
                by_group = d_score.sum(-2).unflatten(1, (-1, call.groups)).sum(2)
                into[:, :, tile.columns] += by_group
            case "head":
                into += d_score.sum((-1, -2))
            case "pair":
                pairs = tile.of(into)
                into[pairs] += d_score.sum_to_size(into[pairs].shape)
            case "row_table":
                into[:, :, tile.rows] += self._entries(leaf, d_score, into.shape[-1])
            case "column_table":
                whole = self._entries(leaf, d_score.transpose(-1, -2), into.shape[-1])
                by_group = whole.unflatten(1, (-1, call.groups)).sum(2)
                into[:, :, tile.columns] += by_group
            case _:
                size = into.shape[-1]
                at = call.plan.indices(self.values)[leaf.name].clamp(0, size - 1)
                whole = d_score.new_zeros((*d_score.shape[:2], size))
                whole.scatter_add_(2, at.expand(d_score.shape).flatten(2), d_score.flatten(2))
                into += whole.sum_to_size(into.shape)

    def _entries(self, leaf: Leaf, d_score: Tensor, size: int) -> Tensor:
        """[B, H, tokens, T]: what each entry of a token's table gets, of `d_score` by token."""
        at = self.call.plan.indices(self.values)[leaf.name].clamp(0, size - 1)
        if leaf.role == "column_table":
            at = at.transpose(-1, -2)
        whole = d_score.new_zeros((*d_score.shape[:3], size))
        return whole.scatter_add_(3, at.expand(d_score.shape), d_score)


def _finite(x: Tensor) -> Tensor:
    """x with NaN and infinities as 0: a masked key or query must not reach a product."""
    good = torch.isfinite(x)
    return x if bool(good.all()) else torch.where(good, x, 0.0)
