"""What the host spends a call on, by stage: every function without what others in it take."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

STAGES = {
    "attend_given": "what depends on one token at most",
    "bind": "arguments: their kind, and what is known of it",
    "operation": "what PyTorch records of it",
    "run_forward": "arguments of the kernel, launch",
    "visited": "what the mask visits",
    "outputs": "memory for the outputs",
}


class Stopwatch:
    """Nanoseconds by stage, of what ran since `cleared`."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(STAGES.values(), 0)
        self._within = [0]

    def cleared(self) -> None:
        """Begin anew."""
        self.spent = dict.fromkeys(self.spent, 0)

    def around(self, holder: Any, name: str, stage: str) -> None:
        """Time the function `name` of a module or an object."""
        function, text = getattr(holder, name), STAGES[stage]

        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            self._within.append(0)
            start = time.perf_counter_ns()
            result = function(*args, **options)
            took = time.perf_counter_ns() - start
            self.spent[text] += took - self._within.pop()
            self._within[-1] += took
            return result

        setattr(holder, name, timed)


def by_stage(
    call: Callable[[], object], module: Any, times: int = 500
) -> Mapping[str, list[float]]:
    """Seconds of every stage of calls of a generated module, for each of so many calls."""
    from attnspec.runtime import cpu, launch, operation

    watch = Stopwatch()
    for holder, name, stage in (
        (module, "attend_given", "attend_given"),
        (module.CALLS, "bind", "bind"),
        (module, "operation", "operation"),
        (operation, "run_forward", "run_forward"),
        (launch, "visits_again", "visited"),
        (launch, "outputs_again", "outputs"),
        (cpu, "forward", "outputs"),
    ):
        watch.around(holder, name, stage)
    found: dict[str, list[float]] = {stage: [] for stage in STAGES.values()}
    for n in range(times + 100):
        watch.cleared()
        call()
        if n >= 100:
            for stage, spent in watch.spent.items():
                found[stage].append(spent * 1e-9)
    return found
