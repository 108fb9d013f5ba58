"""Backends asked for by name, for each oracle and for each role of the model.

A request stands in a rule file under ``requested``, or in the environment variable
:data:`VARIABLE` as ``fp8=triton,draft=auto``. What it is for is written ``[ROLE.]ORACLE``, the role
being that of the target model if absent, or ``ROLE`` alone for all oracles of a role.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from moe_rules.files.problems import Location, Problem
from moe_rules.language.rules import AUTO, Oracle, Requested
from moe_rules.vocabulary.fact_values import FactError, FactValue, did_you_mean
from moe_rules.vocabulary.facts import FACTS

VARIABLE = "MOE_RULES_BACKEND"
ROLE = "model_role"
ROLES = FACTS[ROLE].values

Requests = Mapping[tuple[str, str | None], Requested]
"""Requests by role and oracle; None stands for all oracles."""


def keys(oracles: Iterable[str]) -> list[str]:
    """Everything that a request may be for."""
    names = list(oracles)
    return [*names, *ROLES, *(f"{role}.{name}" for role in ROLES for name in names)]


def request(key: str, backend: str, oracles: Collection[str], location: Location) -> Requested:
    """One request. Raises FactError, with the nearest name, for what names no oracle or role."""
    head, dot, rest = key.partition(".")
    role, oracle = (head, rest if dot else None) if head in ROLES else (ROLES[0], key)
    if oracle is not None and oracle not in oracles:
        raise FactError(
            f"{key!r} is no oracle or role{did_you_mean(key, keys(oracles))}; write [ROLE.]ORACLE "
            f"or ROLE (roles: {', '.join(ROLES)}; oracles: {', '.join(oracles)})"
        )
    return Requested(key, role, oracle, backend.lower().replace("-", "_"), location)


def requests_from_environ(
    environ: Mapping[str, str], oracles: Collection[str]
) -> dict[tuple[str, str | None], Requested]:
    """The requests of :data:`VARIABLE`; ``oracles`` are those of the platform.

    Raises FactError for what is not ``[ROLE.]ORACLE=BACKEND``, or is said twice. Whether an oracle
    knows the backend is asked when it selects.
    """
    found: dict[tuple[str, str | None], Requested] = {}
    for item in filter(None, map(str.strip, environ.get(VARIABLE, "").split(","))):
        key, _, backend = (part.strip() for part in item.partition("="))
        if not (key and backend):
            raise FactError(
                f"{VARIABLE}: {item!r} is no request; write [ROLE.]ORACLE=BACKEND, several with "
                "commas between them"
            )
        try:
            one = request(key, backend, oracles, Location(VARIABLE))
        except FactError as error:
            raise FactError(f"{VARIABLE}: {error}") from None
        if (one.role, one.oracle) in found:
            raise FactError(f"{VARIABLE}: {key!r} is said twice")
        found[one.role, one.oracle] = one
    return found


def applying(layers: Iterable[Requests], oracle: str, role: FactValue) -> Requested | None:
    """The request that applies: of the first layer that has one, the one for this oracle.

    A ``role`` of None has none, and thus no request.
    """
    if isinstance(role, str):
        for layer in layers:
            found = layer.get((role, oracle)) or layer.get((role, None))
            if found is not None:
                return found
    return None


def requested_problems(requests: Requests, oracles: Mapping[str, Oracle]) -> Iterator[Problem]:
    """Requests whose backend none of the oracles that they are for takes."""
    for one in requests.values():
        asked = oracles if one.oracle is None else [one.oracle]
        known = list(dict.fromkeys(name for oracle in asked for name in oracles[oracle].requests))
        if one.backend not in (AUTO, *known):
            message = (
                f"{one.key} takes no request {one.backend!r}"
                f"{did_you_mean(one.backend, [AUTO, *known])} (known: {', '.join([AUTO, *known])})"
            )
            yield Problem("unknown-request", message, one.location)
