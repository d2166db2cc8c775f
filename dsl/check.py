"""The semantic checker: from the surface tree to a checked spec.

`check` elaborates every statement (`check_names`, `check_decl`, `check_definitions`, `check_expr`
and their helpers). On which side the tokens of a name over `n` lie and what kind a state holds
follow from how they are used, so a spec is elaborated until its own reads confirm what was
assumed.
"""

from __future__ import annotations

from attnspec.dsl import syntax as s
from attnspec.dsl.ast import Spec
from attnspec.dsl.check_definitions import Guess, elaborate
from attnspec.dsl.check_names import collect
from attnspec.dsl.check_report import Report
from attnspec.dsl.check_sides import next_guess
from attnspec.dsl.check_spec import assemble
from attnspec.dsl.check_usage import usage
from attnspec.dsl.diagnostics import AttnError, Diagnostic

_ROUNDS = 5  # each changes the side or the kind of some name; specs settle after two or three


def check(file: s.File) -> tuple[Spec, tuple[Diagnostic, ...]]:
    """The checked spec and its warnings; AttnError with every error found."""
    named = Report()
    names = collect(file, named)
    graph = usage(names)
    guess = Guess()
    for _ in range(_ROUNDS):
        report = Report()
        for found in named.errors:
            report.add(found)
        parts = elaborate(file, names, graph, report, guess)
        spec = assemble(file, parts)
        following = next_guess(parts)
        if following == guess:
            break
        guess = following
    if spec is None or report.errors:
        raise _error(file, report.errors)
    return spec, report.warnings


def _error(file: s.File, errors: tuple[Diagnostic, ...]) -> AttnError:
    first = errors[0]
    message = f"{file.path}:{first.span.line}:{first.span.column}: {first.code}: {first.title}"
    if len(errors) > 1:
        message += f" (and {len(errors) - 1} more)"
    return AttnError(message, errors, text=file.text, path=file.path)
