"""The public way to select: rules specialised to a machine, answers remembered.

``Selector`` holds the rules of one platform, specialised to one machine. ``select`` raises where
no backend serves; ``decide`` returns the decision in any case.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_rules.engine.decision import Decision
from moe_rules.engine.explanation import Run
from moe_rules.engine.plan import FactMap, OraclePlan, specialise
from moe_rules.engine.selection import Outcome, run
from moe_rules.language.requested import (
    ROLE,
    VARIABLE,
    Requests,
    applying,
    requests_from_environ,
)
from moe_rules.language.rules import PlatformRules, Requested
from moe_rules.language.ruleset import load_platform, overlay_paths
from moe_rules.machines.machine import Machine, load_machine
from moe_rules.selectors.errors import refusal
from moe_rules.selectors.facts import Key, Layer, checked, checked_facts, facts_of
from moe_rules.vocabulary.fact_values import (
    FactError,
    FactValue,
    SwitchError,
    did_you_mean,
)
from moe_rules.vocabulary.facts import FACTS, PER_CALL, REQUEST_DEFAULTS
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import QuantKey
from moe_rules.vocabulary.readings import Unreadable, variable_text
from moe_rules.vocabulary.switches import SWITCHES, switches_from_environ

if TYPE_CHECKING:
    from moe_rules.analysis.source import Function

MAX_REMEMBERED = 8192
"""Layers whose decisions are remembered."""
MAX_ASKED = 16
"""Ways of asking for one layer that are remembered."""
COMPILED_AFTER = 2000
"""Layers of one oracle that the interpreter decides before the oracle is compiled."""
_KEYS = (QuantKey, str, type(None))
"""The types of keys that cannot change, as mappings may."""
_CONSTANT_GROUPS = ("platform", "software")


Find = Callable[[str], FactValue]
"""Finds a platform or software fact by its name. Raises LookupError where it cannot."""

_Asked = tuple[str, Key, Key, Mapping[str, FactValue]]
"""What is asked of a layer: the oracle, the keys of weights and activations, further facts."""


class Selector:
    """Selects on one machine with one set of rules.

    ``constants`` are facts that never change for this selector: platform and software facts,
    and switches if they are fixed. ``unknown`` are facts that no call will supply; if not given,
    the platform and software facts that are not constant; what has a default is none of them.
    ``find`` is asked for such a fact where a rule asks for it and it is not constant. Facts of a
    call take the place of constants.

    ``requested`` are backends that the user asks for by oracle and role of the model, before those
    of the rules; either takes the place of the layer's own ``moe_backend``.

    Raises FactError for a constant that is no fact, or not of its type.

    A constant switch that is Unreadable is not supplied: a decision that asks for it is a
    SwitchError, and every other one goes on, as in the reference.

    An oracle that is asked often is compiled to a plain function of a layer's attributes; the
    interpreter of the rules then explains what the function says, when it is asked to.
    """

    def __init__(
        self,
        rules: PlatformRules,
        constants: Mapping[str, FactValue],
        unknown: Iterable[str] | None = None,
        requested: Requests | None = None,
        find: Find | None = None,
    ) -> None:
        if not isinstance(rules, PlatformRules):
            raise TypeError(f"rules are what load_platform returns, got {rules!r}")
        self.rules = rules
        self._requests = [layer for layer in (requested, rules.requested) if layer]
        self._unreadable = {n: v for n, v in constants.items() if isinstance(v, Unreadable)}
        constants = {n: v for n, v in constants.items() if n not in self._unreadable}
        # A switch is what the reference makes of its text, and that of one may be any.
        constants |= checked_facts({n: v for n, v in constants.items() if n not in SWITCHES})
        self.constants = constants
        self._find = find
        if unknown is None and find is not None:
            unknown = ()
        elif unknown is None:
            constant_facts = [f.name for f in FACTS.values() if f.group in _CONSTANT_GROUPS]
            unknown = (name for name in constant_facts if name not in constants)
        self._defaults = {**REQUEST_DEFAULTS, **constants}
        for name in self._unreadable:
            del self._defaults[name]
        self._unknown = frozenset(unknown).union(PER_CALL).difference(self._defaults)
        self._plans: dict[tuple[str, frozenset[str], frozenset[str]], OraclePlan] = {}
        self._remembered: dict[int, list[tuple[_Asked, Decision]]] = {}
        self._asked: Counter[tuple[str, ...]] = Counter()
        self._functions: dict[tuple[str, ...], Function | None] = {}

    def select(
        self,
        oracle: str,
        config: FusedMoEConfig,
        weight_key: Key = None,
        activation_key: Key = None,
        **others: FactValue,
    ) -> Decision:
        """The decision for one layer; ``others`` are further facts (options, switches).

        Keys are quantization keys or the names of such.

        Raises InvalidRequestError (a ValueError), NotSupportedError (a NotImplementedError),
        SwitchError (a ValueError) for a switch that is asked for and unreadable, FactError for
        an oracle, a key or a fact that does not exist, or TypeError for what is no layer.
        """
        try:
            for asked, decision in self._remembered.get(id(config), ()):
                if asked == (oracle, weight_key, activation_key, others):
                    return decision
        except ValueError:  # of comparing arrays, which are refused below
            pass
        layer = checked(config, weight_key, activation_key, others)
        decision = self._decide_layer(oracle, layer)
        if decision.failed:
            raise refusal(decision)
        if not (isinstance(weight_key, _KEYS) and isinstance(activation_key, _KEYS)):
            return decision  # of mappings, which may change
        # The decision keeps the layer, which cannot change, and so its id.
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        known = self._remembered.setdefault(id(config), [])
        if len(known) >= MAX_ASKED:
            known.clear()
        known.append(((oracle, weight_key, activation_key, others), decision))
        return decision

    def _decide_layer(self, oracle: str, asked: Layer) -> Decision:
        """What is decided of a layer, by the function of its oracle where there is one."""
        if type(oracle) is not str or oracle not in self.rules.oracles:  # a call takes as long
            self._check_oracle(oracle)
        config, weight_key, activation_key, others = asked
        function = self._function(oracle, others)
        if function is not None:
            try:
                result = function.call(config, weight_key, activation_key, others)
            except LookupError:  # a value that no layer should have
                pass
            else:
                return Decision(self.rules, oracle, result, self._explain, (oracle, asked))
        plan, outcome, requested = self._run(oracle, facts_of(asked))
        ran = (plan, outcome, asked)
        return Decision(self.rules, oracle, outcome.result, _as_it_ran, ran, requested)

    def _explain(self, asked: tuple[str, Layer]) -> Run:
        oracle, layer = asked
        return self._run(oracle, facts_of(layer))[:2]

    def _function(self, oracle: str, others: Mapping[str, FactValue]) -> Function | None:
        """The function of an oracle with further facts, once it was asked for often enough."""
        key = (oracle, *others)
        function = self._functions.get(key)
        if function is None and key not in self._functions:
            self._asked[key] += 1
            if self._asked[key] > COMPILED_AFTER:
                function = self.compiled(*key)
        return function

    def compiled(self, oracle: str, *others: str) -> Function | None:
        """An oracle as a function of a layer and ``others``, which ``select`` uses from now on.

        Its ``text`` is the source. None where only the interpreter knows what is asked: with
        requests of the user, unreadable switches, facts to be found, facts given that are constant
        or unknown otherwise, or an oracle that does not exist.
        """
        key = (oracle, *others)
        if key not in self._functions:
            self._functions[key] = self._compile(oracle, others)
        return self._functions[key]

    def _compile(self, oracle: str, others: Sequence[str]) -> Function | None:
        from moe_rules.selectors.layer_function import ATTRIBUTES, layer_function

        if self._requests or self._unreadable or self._find is not None:
            return None
        if oracle not in self.rules.oracles or not FACTS.keys() >= set(others):
            return None
        never = self._unknown - PER_CALL
        if not {*ATTRIBUTES, *others}.isdisjoint({*never, *self.constants}):
            return None
        return layer_function(self.rules, oracle, self._defaults, others)

    def decide(self, oracle: str, facts: Mapping[str, FactValue]) -> Decision:
        """The decision for a mapping of facts, failed or not.

        Raises FactError as ``select``, and where a fact is missing that no rule can do without:
        ``moe_backend``, and what tells variants of backends apart.
        """
        self._check_oracle(oracle)
        plan, outcome, requested = self._run(oracle, checked_facts(facts))
        return Decision(self.rules, oracle, outcome.result, _as_it_ran, (plan, outcome), requested)

    def _run(
        self, oracle: str, facts: Mapping[str, FactValue]
    ) -> tuple[OraclePlan, Outcome, Requested | None]:
        """Go through the rules."""
        supplied, requested = self._supplied(oracle, facts)
        unknown = self._unknown
        if not unknown.isdisjoint(facts):
            unknown = unknown.difference(facts)
        others = frozenset(self.constants.keys() & facts.keys())
        while True:
            plan = self._plan(oracle, unknown, others)
            try:
                outcome = run(plan, supplied)
            except KeyError as error:
                missing = str(error.args[0])
                if missing in self._unreadable:
                    raise self._unreadable_switch(plan, missing) from None
                if missing not in self.rules.facts:
                    raise
                if missing in unknown:
                    where = f"oracle {oracle!r} on {self.rules.platform}"
                    raise FactError(
                        f"the facts do not give {missing}, without which {where} cannot decide"
                    ) from None
                if self._found(missing):
                    supplied[missing] = self._defaults[missing]
                else:
                    unknown = unknown | {missing}
            else:
                return plan, outcome, requested

    def _supplied(
        self, oracle: str, facts: Mapping[str, FactValue]
    ) -> tuple[FactMap, Requested | None]:
        """All that an oracle is asked with for these facts, and the user's request if one applies.

        That stands in for the layer's own ``moe_backend``.
        """
        supplied: FactMap = {**self._defaults, **facts}
        requested = None
        if self._requests:
            requested = applying(self._requests, oracle, supplied[ROLE])
            if requested is not None:
                supplied["moe_backend"] = requested.backend
        return supplied, requested

    def _unreadable_switch(self, plan: OraclePlan, name: str) -> SwitchError:
        conditions = plan.oracle.conditions()
        tests = (clause for c in conditions for clause in c.clauses() if clause.fact == name)
        place = next((test.location for test in tests), plan.oracle.location)
        where = f"oracle {plan.oracle.name!r} on {self.rules.platform} asks for it ({place})"
        return SwitchError(f"{self._unreadable[name].error}; {where}")

    def _found(self, name: str) -> bool:
        """Whether a fact that a rule asks could be found; then it is known from now on."""
        if self._find is None or self.rules.facts[name].group not in _CONSTANT_GROUPS:
            return False
        try:
            self._defaults[name] = self._find(name)
        except LookupError:
            return False
        return True

    def _check_oracle(self, oracle: str) -> None:
        names = self.rules.oracles
        if not isinstance(oracle, str) or oracle not in names:
            raise FactError(
                f"the rules of {self.rules.platform} have no oracle {oracle!r}"
                f"{did_you_mean(oracle, names)} (known: {', '.join(names)})"
            )

    def _plan(self, oracle: str, unknown: frozenset[str], others: frozenset[str]) -> OraclePlan:
        """The plan of an oracle for deployments that say the ``others`` of the constants."""
        key = (oracle, unknown, others)
        plan = self._plans.get(key)
        if plan is None:
            known = {n: v for n, v in self.constants.items() if n not in others}
            plan = specialise(self.rules, self.rules.oracles[oracle], known, unknown)
            self._plans[key] = plan
        return plan


def _as_it_ran(asked: tuple[Any, ...]) -> Run:
    return asked[0], asked[1]


@functools.lru_cache(maxsize=64)
def selector_for(
    machine: Machine,
    overlays: tuple[Path, ...] = (),
    switches: tuple[tuple[str, FactValue], ...] = (),
    requested: str = "",
    find: Find | None = None,
) -> Selector:
    """The selector of a machine, with the switches that are set and the requests of the user.

    ``requested`` is the text of ``MOE_RULES_BACKEND``; ``find`` finds what ``machine`` does not
    say. Raises FactError where the text is wrong.
    """
    rules = load_platform(machine.device, overlays)
    requests = requests_from_environ({VARIABLE: requested}, rules.oracles)
    return Selector(rules, {**machine.facts(), **dict(switches)}, None, requests, find)


def selector_in(
    environ: Mapping[str, str],
    machine: Machine,
    overlays: tuple[Path, ...] = (),
    find: Find | None = None,
) -> Selector:
    """The selector of a machine with the switches and requests that ``environ`` sets."""
    if not isinstance(environ, Mapping):
        raise TypeError(f"environ is a mapping of variables to their text, got {environ!r}")
    switches = tuple(switches_from_environ(environ).items())
    requested = variable_text(VARIABLE, environ.get(VARIABLE, ""))
    return selector_for(machine, overlays, switches, requested, find)


@functools.cache
def _this_machine() -> Machine:
    from moe_rules.machines.detection import detect

    return detect()


@functools.lru_cache(maxsize=64)
def _named_machine(name: str) -> Machine:
    return load_machine(name)


def as_machine(machine: Machine | str | os.PathLike[str] | None) -> Machine:
    """The machine itself, one by name or recorded file, or this one.

    Raises MachineError for none of that name, TypeError for what is neither.
    """
    if machine is None:
        return _this_machine()
    if isinstance(machine, Machine):
        return machine
    # What is neither is refused where others are loaded; it may have no hash.
    named = isinstance(machine, str | os.PathLike)
    return _named_machine(os.fspath(machine)) if named else load_machine(machine)


def select_backend(
    oracle: str,
    config: FusedMoEConfig,
    weight_key: Key = None,
    activation_key: Key = None,
    *,
    machine: Machine | str | os.PathLike[str] | None = None,
    rules: Sequence[str | Path] = (),
    release: str | None = None,
    environ: Mapping[str, str] | None = None,
    **others: FactValue,
) -> Decision:
    """Select the backend and kernel of one layer.

    Keys are quantization keys or the names of such ("kFp8StaticTensorSym").
    ``machine`` is a :class:`~moe_rules.machines.machine.Machine`, a named machine or a recorded
    file; this machine if absent. ``rules`` are overlays, after those of ``MOE_RULES_PATH``; a
    process reads them once.
    ``release`` is the release of vLLM that decides ("0.32"), the latest that is known if absent.
    ``environ`` is where ``VLLM_*`` switches and ``MOE_RULES_BACKEND`` are read (``os.environ`` if
    absent). ``others`` are further facts: options of the quantization method, ``model_type``,
    ``model_role`` ("draft" for the draft model of speculative decoding), switches.

    Raises InvalidRequestError (a ValueError) for a request that cannot be served,
    NotSupportedError (a NotImplementedError) where no backend serves, FactError (SwitchError for a
    switch whose text the oracle cannot read), MachineError or RuleFileError for input that is
    wrong. All carry the reasons. What is of another class than it has to be is a TypeError.
    """
    machine = as_machine(machine)
    environ = os.environ if environ is None else environ
    selector = selector_in(environ, machine, overlay_paths(rules, release))
    return selector.select(oracle, config, weight_key, activation_key, **others)
