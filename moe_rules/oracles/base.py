"""The vLLM-shaped interface: an oracle is a name of a table and an Enum of its backends.

Method names are those of vLLM's ``MoEKernelOracle``
(``vllm/model_executor/layers/fused_moe/oracle/base.py``). Oracles hold no rules: every answer
comes from the tables. Kernel classes are imported when a method returns them, not before.
"""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast

from moe_rules.engine.decision import Decision
from moe_rules.language.conditions import ALWAYS
from moe_rules.language.ruleset import overlay_paths
from moe_rules.machines.machine import Machine
from moe_rules.oracles import backends, provider, vllm_objects
from moe_rules.oracles.backends import BackendT
from moe_rules.oracles.vllm_machine import this_machine, vllm_release
from moe_rules.oracles.vllm_selection import VllmSelection
from moe_rules.selectors.errors import refusal
from moe_rules.selectors.facts import layer_facts
from moe_rules.selectors.selector import (
    Selector,
    as_machine,
    select_backend,
    selector_for,
    selector_in,
)
from moe_rules.vocabulary.fact_values import FactValue, did_you_mean
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from moe_kernels.layouts import LayerWeights
    from moe_kernels.layouts.grouped_integers import CheckpointFormat
    from moe_kernels.registry import Provider

Layer = Any
"""A FusedMoEConfig, vLLM's or this package's."""
Key = Any
"""A QuantKey, vLLM's or this package's, or None."""
USUAL: Key = object()
"""Stands for the key of an oracle's usual checkpoints, where a caller names none."""


def the_layer(config: Layer, moe_config: Layer) -> Layer:
    """The layer that a caller gave under one of vLLM's two names. Raises TypeError for both."""
    if (config is None) == (moe_config is None):
        given = "both config and moe_config" if config is not None else "neither"
        raise TypeError(f"a layer is given as config or as moe_config, got {given}")
    return moe_config if config is None else config


class MoEKernelOracle(ABC, Generic[BackendT]):
    """Selects and builds the kernels of one kind of MoE layer.

    ``machine`` is a :class:`~moe_rules.machines.machine.Machine`, a name or a recorded file;
    ``rules`` are overlays on the packaged tables. Without ``machine`` it is this one: as vLLM's
    own probes see it for a layer of vLLM's, otherwise as it is detected. ``release`` is the release
    of vLLM that decides ("0.32"); without it that is the one that runs here for a layer of vLLM's,
    otherwise the latest that is known.

    A layer and its keys are described by vLLM's objects or by this package's, never by both.
    Described by vLLM's, everything that comes back is vLLM's. Described by this package's, a
    kernel's class is its first provider's (see :mod:`moe_kernels.registry`), or ``provider``'s.
    """

    name: ClassVar[str]
    """Name of the oracle's table."""
    usual_keys: ClassVar[tuple[str | None, str | None]] = (None, None)
    """The weight and activation key of this oracle's usual checkpoints, by name."""

    def __init__(
        self,
        machine: Machine | str | None = None,
        rules: Sequence[str | Path] = (),
        provider: Provider | None = None,
        release: str | None = None,
    ) -> None:
        self._machine = machine
        self._release = release
        self._rules = tuple(rules)
        self._provider = provider

    @abstractmethod
    def backend_enum_cls(self) -> type[BackendT]:
        """Return the Enum of this oracle's backends."""

    @functools.cached_property
    def _selector(self) -> Selector:
        return selector_for(as_machine(self._machine), overlay_paths(self._rules, self._release))

    @functools.cached_property
    def vllm(self) -> VllmSelection:
        """The selection for vLLM's objects. It loads the rules of the machine's platform."""
        machine = this_machine() if self._machine is None else as_machine(self._machine)

        def selector() -> Selector:
            release = self._release or vllm_release().name
            return selector_in(os.environ, machine, overlay_paths(self._rules, release))

        return VllmSelection(self.name, self.backend_enum_cls(), selector)

    # Selection --------------------------------------------------------------------------------

    def decide(
        self,
        moe_config: Layer,
        weight_key: Key = USUAL,
        activation_key: Key = USUAL,
        *,
        quant_config: Any = None,
        **others: FactValue,
    ) -> Decision:
        """The decision with its reasons; no kernel is imported. Raises as ``select_backend``."""
        keys = self._keys(moe_config, weight_key, activation_key)
        if not isinstance(moe_config, FusedMoEConfig):
            question = (*keys, tuple(others.items()), quant_config)
            decision = self.vllm.answer(moe_config, *question).decision
            if decision.failed:
                raise refusal(decision)
            return decision
        vllm_objects.is_vllms(moe_config, *keys)
        if quant_config is not None:
            raise TypeError(
                "quant_config is for a layer of vLLM's; for one of moe_rules the checkpoint is "
                "described by facts (checkpoint_format, num_bits, group_size, ...)"
            )
        return select_backend(
            self.name,
            moe_config,
            *keys,
            machine=self._machine,
            rules=self._rules,
            release=self._release,
            **cast("dict[str, Any]", others),
        )

    def select_backend(
        self,
        moe_config: Layer,
        weight_key: Key = USUAL,
        activation_key: Key = USUAL,
        *,
        quant_config: Any = None,
        **others: FactValue,
    ) -> tuple[Any, type | None]:
        """The backend and the kernel class for a layer.

        ``quant_config`` is the checkpoint of an integer layer as vLLM describes it, ``others``
        are further facts. The class is None where the platform's own code takes over.

        Raises a ValueError for a request that cannot be served, a NotImplementedError where no
        backend serves, an ImportError where the kernel's package is not installed, and a
        TypeError for what is neither vLLM's nor this package's, or a mixture.
        """
        keys = self._keys(moe_config, weight_key, activation_key)
        if not isinstance(moe_config, FusedMoEConfig):
            question = (*keys, tuple(others.items()), quant_config)
            return self.vllm.answer(moe_config, *question).selected()
        decision = self.decide(moe_config, *keys, quant_config=quant_config, **others)
        assert decision.backend is not None
        backend = backends.member(self.backend_enum_cls(), decision.backend)
        return backend, None if decision.kernel is None else self._kernel_class(decision.kernel)

    def get_priority_backends(
        self,
        moe_config: Layer,
        weight_key: Key = USUAL,
        activation_key: Key = USUAL,
        **others: FactValue,
    ) -> list[Any]:
        """Backends in the order in which they are tried for a layer, whatever it requests."""
        enum = self.backend_enum_cls()
        keys = self._keys(moe_config, weight_key, activation_key)
        if vllm_objects.is_vllms(moe_config, *keys):
            order = self.vllm.order(moe_config, *keys, tuple(others.items()))
            return [vllm_objects.vllm_member(backends.member(enum, name)) for name in order]
        facts = {**layer_facts(moe_config), **others, "moe_backend": "auto", "model_role": None}
        facts |= {"weight_key": keys[0], "activation_key": keys[1]}
        order = self._selector.decide(self.name, facts).order
        return [backends.member(enum, name) for name in order]

    def _keys(self, moe_config: Layer, *keys: Key) -> tuple[Key, Key]:
        """The keys, the usual ones where none were named, each as the layer is described."""
        vllms = vllm_objects.is_vllms(moe_config)
        named = (None if name is None else NAMED_KEYS[name] for name in self.usual_keys)
        weight_key, activation_key = (
            key if key is not USUAL else vllm_objects.vllm_quant_key(usual) if vllms else usual
            for key, usual in zip(keys, named, strict=True)
        )
        return weight_key, activation_key

    def backend_to_kernel_cls(self, backend: Enum) -> list[type]:
        """The classes of a backend's kernels on this machine's platform, in the order asked.

        Those of any layer: what a backend offers only to some (LoRA) is left out. For a member
        of vLLM's Enum the classes are vLLM's.
        Raises ValueError for a backend that the platform does not have, TypeError for no member of
        the Enum, ImportError for a class whose package is not installed.
        """
        names = self.kernel_names(backend)
        if vllm_objects.is_member(backend):
            return [vllm_objects.vllm_kernel(name, self.name) for name in names]
        return [self._kernel_class(name) for name in names]

    def kernel_names(self, backend: Enum) -> list[str]:
        """As :meth:`backend_to_kernel_cls`, the names of the classes; nothing is imported."""
        enum = self.backend_enum_cls().__name__  # vLLM's is called the same
        if type(backend).__name__ != enum:
            raise TypeError(f"a backend here is a member of {enum}, got {backend!r}")
        vllms = vllm_objects.is_member(backend)
        rules = (self.vllm.selector() if vllms else self._selector).rules
        declared = rules.oracles[self.name].backends
        if backend.name not in declared:
            raise ValueError(
                f"{type(backend).__name__}.{backend.name} does not exist on {rules.platform}; "
                f"there are {', '.join(declared)}"
            )
        choices = declared[backend.name].choices
        return [choice.kernel.class_name for choice in choices if choice.when is ALWAYS]

    def map_backends(self, runner_backend: str) -> list[BackendT]:
        """What a ``moe_backend`` name stands for in the plainest deployment, in order.

        Raises ValueError for a name that the oracle does not take on this platform.
        """
        requests = self._selector.rules.oracles[self.name].requests
        if runner_backend not in requests:
            raise ValueError(
                f"moe_backend={runner_backend!r} is no backend of oracle {self.name!r} on "
                f"{self._selector.rules.platform}{did_you_mean(runner_backend, requests)}; "
                f"expected one of {', '.join(requests)}"
            )
        last = requests[runner_backend][-1]
        enum = self.backend_enum_cls()
        return [backends.member(enum, backend.name) for backend in last.backends]

    def map_backend(self, runner_backend: str) -> BackendT:
        """The first of :meth:`map_backends`. Raises ValueError for a name that stands for none."""
        found = self.map_backends(runner_backend)
        if not found:
            raise ValueError(f"moe_backend={runner_backend!r} selects automatically")
        return found[0]

    # Kernels ----------------------------------------------------------------------------------

    def make_kernel(
        self,
        quant_config: Any,
        moe_config: Layer,
        backend: Enum,
        experts_cls: type,
        routing_tables: Any = None,
        *,
        process_group: dist.ProcessGroup | None = None,
        expert_map: torch.Tensor | None = None,
        capacity: int | None = None,
        **others: Any,
    ) -> Any:
        """Join experts with the preparation of their inputs to a kernel that runs.

        For a class of vLLM this calls vLLM, with vLLM's backend and configurations, lets the
        experts process ``layer`` (one of ``others``) where vLLM does, and returns its
        FusedMoEKernel; ``routing_tables`` and ``others`` are for that.

        For a class of this package ``process_group`` has the ranks that exchange tokens, as the
        layer's parallel configuration says; ``expert_map`` and ``capacity`` go with it
        (:func:`moe_kernels.prepare_finalize.choice.prepare_finalize_over`). None: tokens stay.

        Raises ImportError for a class that is neither vLLM's nor made for this package, ValueError
        for arguments that the kernel lacks or does not take, TypeError for a mixture of vLLM's and
        this package's, and RankError where ranks disagree.
        """
        from moe_kernels.registry.bind import bind

        if not isinstance(experts_cls, type):
            raise TypeError(f"experts_cls is the class of a kernel, got {experts_cls!r}")
        if vllm_objects.are_vllms(experts_cls, backend, moe_config, quant_config):
            arguments = (backend, moe_config, quant_config, experts_cls, routing_tables)
            if process_group is not None:
                raise ValueError(f"{experts_cls.__name__} takes no process_group: vLLM has its own")
            return provider.make_kernel(self.name, *arguments, **others)
        if routing_tables is not None or others:
            name = next(iter(others), "routing_tables")
            raise ValueError(f"{experts_cls.__name__} takes no {name}")
        return bind(
            experts_cls.__name__,
            moe_config,
            quant_config,
            oracle=self.name,
            process_group=process_group,
            expert_map=expert_map,
            capacity=capacity,
        )

    def convert_to_kernel_format(
        self,
        backend: Enum,
        moe_config: Layer,
        w13_weight: torch.Tensor,
        w2_weight: torch.Tensor,
        *,
        weight_key: Key = None,
        activation_key: Key = None,
        checkpoint_format: CheckpointFormat = "compressed_tensors",
        quantization_method: str | None = None,
        dequantize_for_cpu: bool = False,
        **tensors: Any,
    ) -> LayerWeights:
        """Weights as a checkpoint has them, in the layout that the backend's kernels take.

        ``tensors`` are further fields of :class:`moe_kernels.layouts.LayerWeights` (scales, zero
        points, ...); ``checkpoint_format`` says how integer weights in groups are packed;
        ``dequantize_for_cpu`` trades memory for time where CPUs have no product of a format.

        Where backend, layer and keys are vLLM's, vLLM converts
        (:func:`moe_rules.oracles.provider.convert`): then ``tensors`` has what else its function
        takes, and ``quantization_method`` is the checkpoint's, which MXFP4 needs. Raises
        ImportError where the kernels' package is not installed, ValueError for a backend without
        kernels or tensors that are not what the key says, TypeError for a mixture of vLLM's and
        this package's.
        """
        from moe_kernels.dtypes import torch_dtype
        from moe_kernels.layouts import LayerWeights, convert_to_kernel_format

        others = {name: tensors.pop(name) for name in {*tensors} - {*LayerWeights._fields}}
        weights = LayerWeights(w13_weight, w2_weight, **tensors)
        if vllm_objects.are_vllms(backend, moe_config, weight_key, activation_key):
            keys = (vllm_objects.quant_key(weight_key), activation_key)
            weights = weights._replace(weight_key=keys[0])
            return provider.convert(
                *(self.name, backend, moe_config, weights, activation_key, quantization_method),
                **others,
            )
        kernel = self._our_kernel(backend)
        if others:
            name = next(iter(others))
            raise ValueError(f"{kernel} takes no {name}{did_you_mean(name, LayerWeights._fields)}")
        return convert_to_kernel_format(
            kernel,
            weights,
            weight_key,
            checkpoint_format=checkpoint_format,
            dtype=torch_dtype(moe_config.in_dtype),
            dequantize_for_cpu=dequantize_for_cpu,
        )

    def make_quant_config(
        self,
        backend: Enum,
        weights: LayerWeights | None = None,
        activation_key: Key = None,
        **others: Any,
    ) -> Any:
        """The quantization of a layer as the backend's kernels take it.

        ``weights`` are converted (None: unquantized); ``others`` are further fields of
        :class:`moe_kernels.quant_config.FusedMoEQuantConfig`: biases, SwiGLU's constants. Where
        the backend is vLLM's, so is the result, and ``others`` has what else its function takes.
        Raises as :meth:`convert_to_kernel_format`.
        """
        from moe_kernels.quant_config import FusedMoEQuantConfig

        if vllm_objects.are_vllms(backend, activation_key):
            return provider.make_quant_config(self.name, backend, weights, activation_key, **others)
        self._our_kernel(backend)
        fields = {} if weights is None else weights.quant_fields()
        return FusedMoEQuantConfig(**{**fields, **others}, activation_key=activation_key)

    def _our_kernel(self, backend: Enum) -> str:
        """The name of a backend's first kernel, which is none of vLLM's."""
        from moe_kernels.registry import KernelUnavailableError, Unavailable, available

        names = self.kernel_names(backend)
        where = f"backend {backend.name} of oracle {self.name!r}"
        if not names:
            raise ValueError(f"{where} has no kernels: the platform's own code takes over")
        kernel, where = names[0], f"{where}: kernel {names[0]}"
        found = available(kernel, provider=self._provider, oracle=self.name)
        if isinstance(found, Unavailable):
            raise KernelUnavailableError(f"{where}: {found.reason}; {found.remedy}")
        if provider.is_vllms(found.target):
            own = "takes vLLM's own backend, layer and keys, got moe_rules'"
            raise TypeError(f"{where} is vLLM's and {own}")
        return kernel

    def _kernel_class(self, name: str) -> type:
        from moe_kernels.registry import resolve

        return resolve(name, provider=self._provider, oracle=self.name)
