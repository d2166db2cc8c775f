"""What a spec defines and does not use (W303), and a gate that its output does not name (A114)."""

from __future__ import annotations

from attnspec.dsl import syntax as s
from attnspec.dsl.check_names import Names
from attnspec.dsl.check_report import Report
from attnspec.dsl.check_usage import Usage, roots


def check_unused(names: Names, usage: Usage, report: Report) -> None:
    """Report definitions that no result depends on."""
    used = usage.reach(roots(names))
    gate = names.definitions.get("gate")
    if gate is not None and "gate" not in used:
        report.error(
            "A114",
            "the gate is not applied",
            gate.name_span,
            "a written `output` does not multiply by it",
            "write `output = gate * …`, or remove the gate",
        )
    for name, definition in names.definitions.items():
        if name not in used and name not in names.implied and name != "gate":
            report.warn(
                "W303",
                f"unused {_word(definition)} `{name}`",
                definition.name_span,
                "no result depends on it",
                "use it, or remove it",
            )
    for name, axis in names.axes.items():
        if axis.span.end and name not in used:
            report.warn(
                "W303",
                f"unused axis `{name}`",
                axis.span,
                "no result depends on it",
                "use it, or remove it",
            )


def _word(definition: object) -> str:
    match definition:
        case s.Declare(form):
            return form
        case s.StateDecl():
            return "state"
        case s.Clause():
            return "clause"
        case s.LetFunction():
            return "function"
    return "definition"
