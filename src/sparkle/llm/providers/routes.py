"""From the model a caller names to the upstreams that may answer, in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparkle.errors import ConfigurationError, NotFoundError
from sparkle.llm.providers.upstream import Upstream

Candidate = tuple[Upstream, str]
"""An upstream and the model name to ask it for."""

_GLOB = frozenset("*?[")


class Routes:
    """Aliases and model globs, resolved.

    An alias names its candidates itself, ``"upstream/model"`` or ``"model"``. Any other model goes to the upstreams
    whose globs match, in the order of the settings; if there is none, to those without globs. More than one candidate
    is a fallback order.

    Raises:
        ConfigurationError: Two upstreams of one name, or an alias without candidates or with one that nobody serves.
    """

    def __init__(self, upstreams: Sequence[Upstream], aliases: Mapping[str, Iterable[str]]) -> None:
        self._upstreams = tuple(upstreams)
        self._naming = [upstream for upstream in upstreams if upstream.models]
        self._open = [upstream for upstream in upstreams if not upstream.models]
        self._by_name = {upstream.name: upstream for upstream in upstreams}
        if len(self._by_name) != len(self._upstreams):
            raise ConfigurationError("two upstreams have the same name")
        self._aliases: dict[str, tuple[Candidate, ...]] = {}
        for alias, targets in aliases.items():
            candidates = tuple(candidate for target in targets for candidate in self._target(alias, target))
            if not candidates:
                raise ConfigurationError(f"provider.aliases: {alias!r} has no candidates")
            self._aliases[alias] = candidates

    @property
    def aliases(self) -> tuple[str, ...]:
        """Names of the aliases."""
        return tuple(self._aliases)

    def resolve(self, model: str) -> Sequence[Candidate]:
        """Candidates for ``model``, the preferred one first; never empty.

        Raises:
            NotFoundError: No upstream serves it (``param`` is ``model``, ``code`` is ``model_not_found``).
        """
        candidates = self._aliases.get(model) or self._serving(model)
        if not candidates:
            # The name is the caller's own text: it is not repeated.
            raise NotFoundError(
                "no upstream serves the requested model", param="model", details={"code": "model_not_found"}
            )
        return candidates

    def known_models(self) -> tuple[str, ...]:
        """Names that the settings spell out: aliases, their targets and model names without wildcards."""
        names = dict.fromkeys(self._aliases)
        for candidates in self._aliases.values():
            names.update(dict.fromkeys(model for _, model in candidates))
        for upstream in self._upstreams:
            names.update(dict.fromkeys(model for model in upstream.models if not _GLOB & set(model)))
        return tuple(names)

    def listed(self, fetched: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """The models to show: aliases first, then what each upstream listed, each name once.

        Args:
            fetched: Model objects per upstream name; a failing upstream is missing and shows the names that its globs
                spell out and those it always lists.
        """
        shown = {alias: _model(alias, "sparkle") for alias in self._aliases}
        for upstream in self._upstreams:
            spelt = [*(name for name in upstream.models if not _GLOB & set(name)), *upstream.listed]
            for model in fetched.get(upstream.name, [_model(name, upstream.name) for name in spelt]):
                shown.setdefault(model["id"], dict(model))
        return list(shown.values())

    def _target(self, alias: str, target: str) -> Sequence[Candidate]:
        name, slash, model = target.partition("/")
        if slash and model and name in self._by_name:
            return ((self._by_name[name], model),)
        candidates = self._serving(target)
        if not candidates:
            raise ConfigurationError(
                f"provider.aliases: {alias!r} names {target!r}, which no upstream serves"
            )
        return candidates

    def _serving(self, model: str) -> Sequence[Candidate]:
        matching = [(upstream, model) for upstream in self._naming if upstream.serves(model)]
        return matching or [(upstream, model) for upstream in self._open]


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
