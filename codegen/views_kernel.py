"""What templates see of a kernel: names and printed lines, no expressions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnspec.codegen.packing import KEYED, of_head
from attnspec.codegen.plan_types import TABLES, WIDTHS, Leaf, PairPlan, Ranking, Search
from attnspec.codegen.statements import CAST, text
from attnspec.codegen.tile import needed
from attnspec.codegen.views import Tensor, patch_shape, placed, strides, tiles
from attnspec.codegen.views_gradients import (
    Gradient,
    dot_gradients,
    endings,
    leaf_gradients,
    scan_gradients,
    sum_gradients,
)
from attnspec.codegen.views_scans import ScanView, scan_views
from attnspec.codegen.views_work import Work
from attnspec.dsl.ast import Kind

# What a call decides for the kernels that have one of these operations.
_CHOICES = {"SHORT": {"near", "since"}, "COARSE": {"quick_tanh"}}
# The tokens that a leaf belongs to.
_TOKENS = {
    "row": ("i",),
    "column": ("j",),
    "row_table": ("i",),
    "column_table": ("j",),
    "pair": ("i", "j"),
    "row_blocks": ("i", "j"),
    "column_blocks": ("i", "j"),
}


@dataclass(frozen=True, slots=True)
class Kernel(Work):
    """A kernel: its work, and what it reads."""

    def _head(self, leaf: Leaf) -> str:
        """The head to read a leaf of that all heads share, if a tile has several."""
        own = leaf.role in KEYED or of_head(leaf)
        return self.first_head if self.packs and not own else ""

    def _leaves(self, role: str) -> list[Tensor]:
        used = self._used()
        token = _TOKENS.get(role, ())
        return [
            Tensor(
                leaf.operand.name,
                ("b", "h", *token),
                token[0] if token else "",
                cast=CAST[leaf.kind],
                var=leaf.name,
                head=self._head(leaf),
            )
            for leaf in self.plan.leaves
            if leaf.role == role and leaf.name in used
        ]

    @property
    def head_leaves(self) -> list[Tensor]:
        return self._leaves("head")

    @property
    def row_leaves(self) -> list[Tensor]:
        return [*self._leaves("row"), *self._token_tables("row_table")]

    @property
    def column_leaves(self) -> list[Tensor]:
        return [*self._leaves("column"), *self._token_tables("column_table")]

    @property
    def pair_leaves(self) -> list[Tensor]:
        return self._leaves("pair")

    @property
    def blocked(self) -> dict[str, list[Tensor]]:
        """What is read of blocks of rows and of columns, by which of the two."""
        return {side: self._leaves(f"{side}_blocks") for side in ("row", "column")}

    @property
    def paired(self) -> list[Tensor]:
        """What is read of both tokens."""
        return [*self.pair_leaves, *self.blocked["row"], *self.blocked["column"]]

    @property
    def scans(self) -> list[ScanView]:
        """The running sums that gradients flow through, the last first."""
        return scan_views(self.plan, self.gradients)

    def _vectors(self, *tokens: str) -> list[Tensor]:
        found = [t for view in self.sums for t in view.vectors if t.token in tokens]
        return list(dict.fromkeys(found))

    @property
    def row_vectors(self) -> list[Tensor]:
        """Vectors of rows that sums over channels read."""
        return self._vectors("i")

    @property
    def head_vectors(self) -> list[Tensor]:
        """Those of heads."""
        return self._vectors("")

    @property
    def column_vectors(self) -> list[Tensor]:
        return self._vectors("j")

    @property
    def tables(self) -> list[Tensor]:
        heads = self._tables("table")
        return [Tensor(name, ("b", "h"), head=head) for name, head in heads.items()]

    def _tables(self, *roles: str) -> dict[str, str]:
        """The tables that are read, and the head if they are the same for all."""
        used = self._used()
        read = (x for x in self.plan.leaves if x.role in roles and x.name in used)
        return dict(sorted((x.operand.name, self._head(x)) for x in read))

    def _token_tables(self, role: str) -> list[Tensor]:
        """Tables of tokens: what is read is where each begins."""
        (token,) = _TOKENS[role]
        return [
            Tensor(name, ("b", "h", token), token, var=f"of_{name}", read="point_side", head=head)
            for name, head in self._tables(role).items()
        ]

    @property
    def visits(self) -> list[Tensor]:
        """What says which tiles to visit, where that is read from memory."""
        names = ["limits"] if self.plan.ranges is not None else []
        names += ["counts", "index"] if self.lists else []
        return [Tensor(name, ("b", "h", "t")) for name in names]

    @property
    def lists(self) -> bool:
        """Whether the loop goes by lists of tiles."""
        return self.plan.blocks is not None

    @property
    def lefts(self) -> list[Tensor]:
        return tiles([d.left for d in self.plan.dots], "i")

    @property
    def rights(self) -> list[Tensor]:
        return tiles([d.right for d in self.plan.dots], "j")

    @property
    def form(self) -> str:
        return self.plan.form

    @property
    def first(self) -> Kernel:
        """The first sweep of a search, which needs the scores alone."""
        return replace(self, plan=replace(self.plan, search=None))

    @property
    def search(self) -> dict[str, str]:
        """What a search computes of every pair, by name."""
        match self.plan.search:
            case Search(share, slope, order):
                return {"share": text(share), "slope": text(slope), "order": text(order)}
            case Ranking(score, count, whole):
                found = text(score) if whole else f"in_order({text(score)})"
                return {"order": found, "count": text(count), "bits": "64" if whole else "32"}
        return {}

    @property
    def value(self) -> Tensor | None:
        return None if self.plan.value is None else tiles([self.plan.value], "j")[0]

    @property
    def values(self) -> list[Tensor]:
        return [] if self.value is None else [self.value]

    @property
    def d_outs(self) -> list[Tensor]:
        """The gradient of the output where it is a tile of vectors."""
        return [Tensor("d_out", (), "i", v.channel) for v in self.values]

    @property
    def upstream(self) -> list[Tensor]:
        """The gradient of what the gate gives, as `d_outs` that of what it takes."""
        return [replace(t, name="upstream") for t in self.d_outs if self.gates]

    def described(self, tensor: Tensor) -> bool:
        """Whether it is read in tiles of tokens in a row, which a descriptor can load."""
        return bool(tensor.channel) and self.plan.patches is None

    @property
    def gate(self) -> Tensor | None:
        gate = self.plan.gate
        if gate is None:
            return None
        channel = gate.labels[3] if len(gate.labels) > 3 else ""
        return Tensor(gate.name, strides(gate), "i", channel)

    @property
    def ends(self) -> list[Tensor]:
        """What is read once for a tile of rows, before or after its loop."""
        sinks = [t for t in (branch.sink for branch in self.branches) if t is not None]
        return [*([] if self.gate is None else [self.gate]), *self.coefficients, *sinks]

    @property
    def tensors(self) -> list[Tensor]:
        found = [*self.lefts, *self.rights, *self.values]
        if self.forward:
            found += self.ends
        else:
            found += [*self.d_outs, *self.upstream, *self.coefficients]
        found += [*self.row_vectors, *self.head_vectors, *self.column_vectors]
        found += [*self.row_leaves, *self.column_leaves, *self.head_leaves]
        return [*found, *self.paired, *self.tables, *self.visits]

    @property
    def scalars(self) -> list[str]:
        used = self._used()
        names = [s.name for s in self.plan.scalars if s.name in used]
        sized = {*self._tables(*TABLES), *(g.operand for g in self.gradients if g.owned)}
        return names + [f"T_{name}" for name in sorted(sized)]

    @property
    def widths(self) -> list[str]:
        """The channel axes whose number and padded width the kernel is compiled for."""
        found = [d.left.labels[3] for d in self.plan.dots] + [s.label for s in self.plan.sums]
        if self.plan.value is not None:
            found.append(self.plan.value.labels[3])
        return list(dict.fromkeys(found))

    @property
    def piece(self) -> str:
        """How much of a partial tile is taken at once: a compact one as a whole."""
        if self.plan.patches is None:
            return "EDGE"
        return "BLOCK_N" if self.side == "rows" else "BLOCK_M"

    @property
    def constants(self) -> list[str]:
        axes = () if self.plan.patches is None else self.plan.patches.axes
        table = ["T", "BLOCK_T"] if any(g.role == "table" for g in self.gradients) else []
        chosen = ["EDGE"] if self.piece == "EDGE" else []
        chosen += ["PARTS"] if self.split else []
        chosen += ["PACKED"] if self.packs else []
        chosen += ["AGAIN"] if self.careful else []
        used = {op.op for op in needed(self.plan.ops, self._roots(True))}
        chosen += [name for name, ops in _CHOICES.items() if used & ops]
        chosen += [f"FIXED{b.end}" for b in self.branches if self.forward and b.highest]
        return [*chosen, *patch_shape("M", axes), *patch_shape("N", axes), *table]

    @property
    def unspecialized(self) -> str:
        ints = {s.name for s in self.plan.scalars if s.kind is not Kind.FLOAT}
        names = ["M", "N", "q_start", "k_start"]
        names += [s for s in self.scalars if s in ints or s.startswith("T_")]
        names += [f"s_{t.name}_{d}" for t in self.visits for d in t.strides]  # as the lengths
        return ", ".join(f'"{n}"' for n in names)


def kernels(plan: PairPlan, end: str = "") -> list[Kernel]:
    """Every kernel of a pass, the forward one first; their names end in `end`."""
    ends = [e for e, b in zip(endings(plan), plan.branches, strict=True) if b.softmax]
    several = len(plan.branches) > 1
    outputs = tuple(f"{name}{e}" for name in ["lse", *["part"] * several] for e in ends)
    outputs += () if plan.softmax and plan.value is None else ("out",)
    by_rows, by_columns = (_on_patches(plan, side) for side in ("rows", "columns"))
    found = [Kernel("forward", end, _doc(plan), by_rows, "rows", pointers=outputs, forward=True)]
    if plan.constant:
        return found
    saved = tuple(f"{name}{e}" for name in ("lse", "delta") for e in ends)
    saved += () if plan.softmax or plan.value is not None else ("d_out",)
    rows = [
        *scan_gradients(plan, "rows"),
        *dot_gradients(plan, "rows"),
        *leaf_gradients(plan, ("row", "row_table", "head", "pair")),
        *sum_gradients(plan, "rows"),
    ]
    columns = [
        *dot_gradients(plan, "columns"),
        *leaf_gradients(plan, ("column", "column_table")),
        *sum_gradients(plan, "columns"),
    ]
    inner = scan_gradients(plan, "columns") if columns else []

    def into(gradients: list[Gradient]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f"d_{operand}" for g in gradients for operand in g.operands))

    values = () if plan.value is None else (f"d_{plan.value.name}",)
    if plan.gate is not None:  # its own gradient needs the one before any gate
        of_gate: tuple[str, ...] = (f"d_{plan.gate.name}",)
    else:
        of_gate = ()
    if rows or of_gate:
        doc = "Gradients of what belongs to a query, a head or a pair: one tile of rows a program."
        pointers = (*saved, *of_gate, *into(rows))
        found.append(Kernel("backward_rows", end, doc, by_rows, "rows", tuple(rows), pointers))
    if columns or values:
        doc = "Gradients of what belongs to a key: one tile of columns a program, every query head."
        pointers = (*saved, *values, *into(columns))
        made = (*inner, *columns)
        found.append(Kernel("backward_columns", end, doc, by_columns, "columns", made, pointers))
    for leaf in leaf_gradients(plan, ("table",)):
        doc = f"Gradient of the table {leaf.operand.removeprefix('u_')}: one share a tile of rows."
        pointers = (*saved, f"d_{leaf.operand}")
        name = f"backward_{leaf.name}"
        made = (*scan_gradients(plan, "table"), leaf)
        found.append(Kernel(name, end, doc, by_rows, "rows", made, pointers))
    return found


def _on_patches(plan: PairPlan, side: str) -> PairPlan:
    """`plan` as a kernel computes it whose programs own one side."""
    found = plan.patches
    return plan if found is None else replace(plan, ops=placed(plan.ops, found, side))


def _doc(plan: PairPlan) -> str:
    """What the forward kernel gives."""
    if plan.form == "position":
        return "Positions [B, H, M] of the largest weights: one tile of rows a program."
    if plan.form == "threshold":
        return "Thresholds [B, H, M] of an entmax: one tile of rows a program, many sweeps."
    if plan.form == "cuts":
        return "Cuts [B, H, M, 3] around the largest: one tile of rows a program, many sweeps."
    given = []
    if len(plan.branches) > 1 and plan.value is not None:
        shape = f"[B, H, M, {plan.value.labels[3]}]"
        given.append(f"Output {shape}, output and log-sum-exp of each softmax")
    elif plan.value is not None:
        given.append(f"Output [B, H, M, {plan.value.labels[3]}]")
    elif plan.form in WIDTHS:
        given.append(f"Output [B, H, M, {WIDTHS[plan.form]}]")
    elif not plan.softmax:
        given.append("Output [B, H, M]")
    if plan.softmax and len(plan.branches) == 1:
        given.append("log-sum-exp [B, H, M]" if given else "Log-sum-exp [B, H, M]")
    return f"{' and '.join(given)}: one tile of rows a program."
