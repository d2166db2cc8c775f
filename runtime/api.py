"""The public callables: `load`, `compile` and what they give."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from attnspec.codegen.library import find
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.bind import Bound, bind
from attnspec.runtime.cache import cache_key, cached_module, load_module, uncollected
from attnspec.runtime.signature import Signature

if TYPE_CHECKING:
    from attnspec.codegen.plan_types import Plan
    from attnspec.dsl.analysis import Facts
    from attnspec.dsl.ast import Spec
    from attnspec.runtime.module import AttentionModule
    from attnspec.runtime.reference import Outputs

Result = Tensor | tuple[Tensor, dict[str, Tensor]]


class Attention:
    """A compiled spec: call it like the function that the spec defines.

    `spec`, `facts` and `plan` are what was read, proved and planned; `source` is the generated
    module's text, empty where no kernel covers the spec. Each is made when it
    is first asked for: a module from the cache is called without any of them.
    """

    def __init__(self, text: str, path: str) -> None:
        self._text = text
        self._path = path

    def __repr__(self) -> str:
        return f"<attention {self.spec.name}: {self.spec.title}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return compile, (self._text,)

    @cached_property
    def spec(self) -> Spec:
        """What was read."""
        from attnspec.dsl.check import check
        from attnspec.dsl.parse import parse

        return check(parse(self._text, self._path))[0]

    @cached_property
    def facts(self) -> Facts:
        """What is proved of the spec."""
        from attnspec.dsl.analysis import analyze

        return analyze(self.spec)

    @cached_property
    def plan(self) -> Plan:
        """How it is computed."""
        from attnspec.codegen.plan import plan

        return plan(self.spec, self.facts)

    @cached_property
    def source(self) -> str:
        """The generated module."""
        if not self.plan.fused:
            return ""
        from attnspec.codegen.render import render

        return render(self.spec, self.facts, self.plan)

    @cached_property
    def signature(self) -> Signature:
        """The arguments of a call."""
        if self._module is not None:
            found: Signature = self._module.SIGNATURE
            return found
        from attnspec.runtime.signature_of import signature

        return signature(self.spec)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.signature.arguments)

    @cached_property
    def _module(self) -> ModuleType | None:
        """The generated module; None where no kernel covers the spec."""
        key = cache_key(self._text, {})
        module = cached_module(key)
        if module is None:
            with uncollected():
                if self.plan.fused:
                    module = load_module(key, lambda: self.source, self.spec.name)
        return module

    @property
    def _generated(self) -> ModuleType:
        """The generated module, which there is."""
        assert self._module is not None
        return self._module

    @overload
    def __call__(
        self,
        /,
        *args: Any,
        extras: Literal[False] = False,
        backend: str | None = None,
        **kwargs: Any,
    ) -> Tensor: ...

    @overload
    def __call__(
        self, /, *args: Any, extras: Literal[True], backend: str | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]: ...

    def __call__(
        self, /, *args: Any, extras: bool = False, backend: str | None = None, **kwargs: Any
    ) -> Result:
        """The output [B, H, M, E]; with `extras` also the log-sum-exp and every `return` by name.

        Arguments stand in call order (q, k, v, then as declared) or by name, with `q_start`,
        `k_start` and the sides of a grid by name. `backend` is "triton", "cpu" (tiles in
        PyTorch), "native" (in C++, where a pass has that), "blocked" (the definition, on a block of
        tokens at a time) or "dense" (on all of them); by default Triton on a GPU or under its
        interpreter, elsewhere tiles, in C++ if that exists or the call is long, and blocks where
        no kernel covers the spec. AttnError names the argument that is wrong, before anything is
        computed.
        """
        if backend in ("blocked", "dense") or self._module is None:
            return self._defined(args, kwargs, extras, backend)
        given = kwargs
        if args:
            given = dict(zip(self._names, args, strict=False))
            if len(given) < len(args) or (kwargs and given.keys() & kwargs.keys()):
                bind(self.signature, args, kwargs)
            given.update(kwargs)
        result: Result = self._module.attend_given(given, extras, backend)
        return result

    def _defined(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], extras: bool, backend: str | None
    ) -> Result:
        """By the definition, without a kernel."""
        from attnspec.runtime.launch import BACKENDS, EXPECTED_BACKEND

        if backend not in (None, "blocked", "dense", *BACKENDS):
            raise AttnError(f"{EXPECTED_BACKEND}, got {backend!r}")
        if backend == "triton":
            why = "; ".join(stage.why for stage in self.plan.uncovered)
            raise AttnError(f"backend: no kernel covers `{self.spec.name}` yet ({why})")
        if backend == "blocked" and self.spec.states:
            raise AttnError(f"backend: `{self.spec.name}` is a recurrence, which has no blocks")
        from attnspec.runtime.blocked import evaluate_blocked
        from attnspec.runtime.precision import own_precision
        from attnspec.runtime.reference import evaluate

        bound = self.bind(*args, **kwargs)
        wide = torch.float64 if bound.dtype is torch.float64 else torch.float32
        way = evaluate if backend == "dense" or self.spec.states else evaluate_blocked
        with own_precision(bound.device):
            found = way(self.spec, bound, wide)
        return self._shown(found, extras, bound.dtype)

    @overload
    def reference(self, /, *args: Any, extras: Literal[False] = False, **kwargs: Any) -> Tensor: ...

    @overload
    def reference(
        self, /, *args: Any, extras: Literal[True], **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]: ...

    def reference(self, /, *args: Any, extras: bool = False, **kwargs: Any) -> Result:
        """The definition, dense in float64, on any device; arguments as in a call."""
        from attnspec.runtime.reference import evaluate

        bound = self.bind(*args, **kwargs)
        return self._shown(evaluate(self.spec, bound), extras, torch.float64)

    def bind(self, /, *args: Any, **kwargs: Any) -> Bound:
        """The checked arguments of a call, defaults filled in."""
        from attnspec.runtime.facts_check import facts_hold
        from attnspec.runtime.reference import initial

        bound = bind(self.signature, args, kwargs, lambda name, now: initial(self.spec, name, now))
        facts_hold(self.spec, bound)
        return bound

    def _shown(self, found: Outputs, extras: bool, dtype: torch.dtype) -> Result:
        output = None if found.output is None else found.output.to(dtype)
        if not extras:
            if output is None:
                raise AttnError(
                    f"{self.spec.name}: has no output, only returns: ask for extras=True"
                )
            return output
        return output, dict(found.extras)  # type: ignore[return-value]

    def module(self, **sizes: Any) -> AttentionModule:
        """A torch.nn.Module that holds the params; `heads=8`, `dim=64`, ... give their sizes."""
        from attnspec.runtime.module import AttentionModule

        return AttentionModule(self, **sizes)


@cache
def _attention(text: str, path: str) -> Attention:
    """One for each text: it never changes, and its generated module stays in any case."""
    found = Attention(text, path)
    _ = found._module  # so that a first call may be a traced one, and errors come here
    return found


def compile(source: str, name: str | None = None) -> Attention:
    """The function that a spec's text defines; `name` must be the spec's own, if given.

    Raises AttnError with every diagnostic of the text.
    """
    attention = _attention(source, f"{name or '<spec>'}.attn")
    found = attention.signature.name
    if name is not None and found != name:
        raise AttnError(f"expected a spec named `{name}`, got `{found}`")
    return attention


def load(spec: str | Path) -> Attention:
    """The function of a `.attn` file, or of the library's spec of that name."""
    return _attention(*find(str(spec)))
