"""Who mentions whom, on the surface tree: order of definitions, cycles, reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields

from attnspec.dsl import syntax as s
from attnspec.dsl.check_names import Names

MASK = "mask"
REQUIRE = "require"


def nodes(tree: object) -> Iterator[s.Node]:
    """Every node at and under `tree`, parents first, left to right."""
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, s.Node):
            yield item
            stack.extend(getattr(item, f.name) for f in reversed(fields(item)))
        elif isinstance(item, tuple):
            stack.extend(reversed(item))


def mentions(tree: object) -> frozenset[str]:
    """The names that expressions under `tree` say, functions included."""
    found: set[str] = set()
    for node in nodes(tree):
        match node:
            case s.Name(word):
                found.add(word)
            case s.Call(func):
                found.add(func)
            case s.Subscript(name) | s.Attribute(name):
                found.add(name)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Usage:
    """The graph of mentions: for every name (and `mask`, `require`) the names it says."""

    graph: Mapping[str, frozenset[str]]

    def reach(self, roots: Iterable[str]) -> frozenset[str]:
        """Everything that `roots` use, directly or not, themselves included."""
        seen: set[str] = set()
        stack = list(roots)
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                stack.extend(self.graph.get(name, ()))
        return frozenset(seen)

    def order(self, cut: frozenset[str]) -> tuple[list[str], list[list[str]]]:
        """Names, used ones before users, and the cycles met; a name in `cut` is not followed."""
        done: dict[str, bool] = {}
        order: list[str] = []
        cycles: list[list[str]] = []
        for root in self.graph:
            path = [root] if root not in done else []
            while path:
                name = path[-1]
                done.setdefault(name, False)
                following = () if name in cut else self.graph.get(name, ())
                for used in sorted(following):
                    if used not in done:
                        path.append(used)
                        break
                    if not done[used] and used not in cut:
                        cycle = path[path.index(used) :]
                        if cycle not in cycles:
                            cycles.append(cycle)
                else:
                    done[name] = True
                    order.append(path.pop())
        return order, cycles


def roots(names: Names) -> tuple[str, ...]:
    """What a spec computes; everything that these do not use is unused."""
    returns = [n for n, d in names.definitions.items() if isinstance(d, s.ReturnStmt)]
    return (MASK, REQUIRE, "output", *returns)


def usage(names: Names) -> Usage:
    """The graph of mentions of a spec."""
    graph: dict[str, frozenset[str]] = {
        MASK: mentions(tuple(names.masks)),
        REQUIRE: mentions(tuple(names.requires)),
    }
    for name, axis in names.axes.items():
        graph[name] = mentions(axis.size) | ({axis.base} if axis.base else set())
    for name, definition in names.definitions.items():
        said = mentions(definition)
        match definition:
            case s.LetFunction():
                said -= set(definition.params)
            case s.Let() if definition.axes is not None:
                said |= set(definition.axes)
            case s.ReturnStmt():
                said |= set(definition.axes)
            case s.StateDecl():
                said |= set(definition.axes) | {definition.over or "t"}
                if name in names.steps:
                    said |= mentions(names.steps[name])
            case s.Declare():
                said -= {name}  # its own `where`
            case _:
                pass
        graph[name] = said
    return Usage(graph)
