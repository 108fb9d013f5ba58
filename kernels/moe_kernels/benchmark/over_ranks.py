"""Times a layer over the ranks of a process group: its phases, and what its exchange moves.

Every rank calls the same functions, and all get the same figures: those of the slowest rank. Ranks
begin together. What does not wait on the host is timed as CUDA graphs. Layers and exchanges are
timed several times in a row, as the layers of a model are called, on one rank as on all; a phase
alone, with what it waits for ranks that begin later, so that phases are more than their layer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from moe_kernels.benchmark.peers import converted
from moe_kernels.benchmark.plan import FIXED
from moe_kernels.modular_kernel import FusedMoEKernel, PrepareResult
from moe_kernels.prepare_finalize.over_ranks import PrepareAndFinalizeOverRanks
from moe_kernels.ranks.group import Ranks
from moe_kernels.registry.bind import bind
from moe_kernels.routing import Routing
from moe_kernels.testing import RandomLayer
from moe_rules.vocabulary.layer import FusedMoEParallelConfig

# torch.cuda.Event is not annotated.
# mypy: allow-untyped-calls

_WARM_UPS = 2
_MOST_RUNS = 20
_SECONDS = 0.5
"""For how long one thing is timed, unless three runs take longer."""
_IN_A_ROW = 8
"""So many calls are timed at once on GPUs, or the host that begins the first would be, too."""


@dataclass(frozen=True)
class Phase:
    """Dispatch or combine. Milliseconds of the slowest rank; ``exchange_ms``: of its collective.

    ``bytes``: that the rank which sends most sends to others. ``bare_ms``: of an
    ``all_to_all_single`` of the same bytes, and nothing else.
    """

    ms: float
    exchange_ms: float
    bare_ms: float
    bytes: int

    @property
    def gbps(self) -> float:
        """What a rank sends, in GB/s, while the collective runs."""
        return self.bytes / self.exchange_ms * 1e-6

    @property
    def share(self) -> float:
        """Of the bare exchange's bandwidth."""
        return self.bare_ms / self.exchange_ms


@dataclass(frozen=True)
class LayerOverRanks:
    """One layer over ``ranks``. ``num_tokens`` in all; milliseconds of the slowest rank.

    ``relative_error`` is against the same kernel on one rank; ``error_bound`` holds for each of
    both, against the exact result. ``one_rank_ms``: of that one rank, with all tokens.
    """

    ranks: int
    exchange: str
    num_tokens: int
    relative_error: float
    error_bound: float
    ms: float
    one_rank_ms: float
    dispatch: Phase
    experts_ms: float
    combine: Phase

    @property
    def correct(self) -> bool:
        """The error is not beyond what both may differ."""
        return self.relative_error <= 2 * self.error_bound

    @property
    def speedup(self) -> float:
        """How many times faster than one rank."""
        return self.one_rank_ms / self.ms

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        derived = {"correct": self.correct, "speedup": self.speedup}
        phases = {
            name: {**asdict(phase), "gbps": phase.gbps, "share": phase.share}
            for name, phase in (("dispatch", self.dispatch), ("combine", self.combine))
        }
        return {**asdict(self), **derived, **phases}


def share_of(num_tokens: int, rank: int, size: int) -> slice:
    """The tokens of a rank where they are spread evenly; the first ranks have one more."""
    share, more = divmod(num_tokens, size)
    first = rank * share + min(rank, more)
    return slice(first, first + share + (rank < more))


class SpreadLayer:
    """``whole``, drawn alike on every rank, spread over ``ranks``.

    ``whole`` has all experts, in the layout of :mod:`moe_kernels.quantization.schemes`;
    ``parallel`` says how they are spread.
    """

    def __init__(
        self,
        ranks: Ranks,
        whole: RandomLayer,
        kernel_name: str,
        parallel: FusedMoEParallelConfig,
        *,
        oracle: str | None = None,
    ) -> None:
        self._clock = _Clock(ranks, whole.hidden_states.device)
        self._whole = whole
        self._bind = partial(bind, kernel_name, oracle=oracle)
        config = replace(whole.moe_config, moe_parallel_config=parallel)
        held = config.experts_of(ranks.rank)
        self._share = converted(whole.share(held, parallel), kernel_name)
        self._alone = converted(whole, kernel_name)
        self._one = self._bind(whole.moe_config, self._alone.quant_config)

    def measure(self, tokens: RandomLayer, exchange: str) -> LayerOverRanks:
        """Run the layer on ``tokens``, those of all ranks.

        ``exchange``: an all2all_backend; with :data:`FIXED` after it, with a capacity, and on GPUs
        as a CUDA graph. Raises ValueError and RankError as
        :func:`moe_kernels.prepare_finalize.choice.prepare_finalize_over`.
        """
        backend, fixed = exchange.removesuffix(FIXED), exchange.endswith(FIXED)
        clock, ranks = self._clock, self._clock.ranks
        num_tokens, size = len(tokens.hidden_states), ranks.size
        mine = share_of(num_tokens, ranks.rank, size)
        share = with_tokens_of(self._share, tokens.tokens(mine))
        alone = with_tokens_of(self._alone, tokens)
        config = share.moe_config
        parallel = replace(config.moe_parallel_config, all2all_backend=backend)
        kernel = self._bind(
            replace(config, moe_parallel_config=parallel),
            share.quant_config,
            process_group=ranks.group,
            expert_map=share.expert_map,
            capacity=-(-num_tokens // size) if fixed else None,
        )
        arguments, all_arguments = share.arguments(), alone.arguments()
        output = kernel.apply(**arguments)
        expected = self._one.apply(**all_arguments)[mine]
        call: Callable[[], object] = partial(kernel.apply, **arguments)
        one: Callable[[], object] = partial(self._one.apply, **all_arguments)
        graphs = fixed and share.hidden_states.device.type == "cuda"
        if graphs:
            call, one = _replay(call), _replay(one)
        ms, one_rank_ms = clock.slowest(call), clock.first(one)
        dispatch, experts_ms, combine = _phases(kernel, share, clock, graphs)
        wide = output.double() - expected.double(), expected.double()
        squares = clock.gathered([float(x.square().sum()) for x in wide])
        difference, norm = (sum(part) for part in zip(*squares, strict=True))
        return LayerOverRanks(
            ranks=size,
            exchange=exchange,
            num_tokens=num_tokens,
            relative_error=(difference / norm) ** 0.5 if norm else difference**0.5,
            error_bound=self._whole.error_bound(kernel),
            ms=ms,
            one_rank_ms=one_rank_ms,
            dispatch=dispatch,
            experts_ms=experts_ms,
            combine=combine,
        )


def with_tokens_of(layer: RandomLayer, other: RandomLayer) -> RandomLayer:
    """``layer`` with the tokens and the routing of another."""
    names = ("hidden_states", "topk_weights", "topk_ids")
    return replace(layer, **{name: getattr(other, name) for name in names})


def _replay(call: Callable[[], object]) -> Callable[[], object]:
    """Replays of a CUDA graph of ``call``."""
    from moe_kernels.benchmark.timing import capture

    replay: Callable[[], object] = capture([call]).replay
    return replay


class _Clock:
    """Times what all ranks do together."""

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self.ranks = ranks
        self.device = device
        self.in_a_row = _IN_A_ROW if device.type == "cuda" else 1

    def now(self) -> Any:
        """A point of time: of the stream, where there is one."""
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def ms(self, begin: Any, end: Any) -> float:
        """Between two points of time."""
        if self.device.type == "cpu":
            return float(end - begin) * 1e3
        end.synchronize()
        return float(begin.elapsed_time(end))

    def gathered(self, values: Sequence[float]) -> list[list[float]]:
        """What each rank has."""
        return self.ranks.gather(values, self.device)

    def together(self) -> None:
        """Wait for all ranks."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.gathered([0.0])
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def repeated(self, once: Callable[[], list[float]]) -> list[float]:
        """``once``'s milliseconds: the slowest rank's of each run, and the median of runs."""
        for _ in range(_WARM_UPS):
            begin = time.perf_counter()
            once()
            seconds = time.perf_counter() - begin
        longest = max(value for (value,) in self.gathered([seconds]))
        runs = max(3, min(_MOST_RUNS, int(_SECONDS / max(longest, 1e-6))))
        own = [value for _ in range(runs) for value in once()]
        slowest = [max(values) for values in zip(*self.gathered(own), strict=True)]
        count = len(slowest) // runs
        return [statistics.median(slowest[i::count]) for i in range(count)]

    def slowest(self, call: Callable[[], object]) -> float:
        """Milliseconds of a call that all ranks make."""
        return self._of(call, True)

    def first(self, call: Callable[[], object]) -> float:
        """Milliseconds of a call on the first rank alone, while the others wait."""
        return self._of(call, self.ranks.rank == 0)

    def _of(self, call: Callable[[], object], takes_part: bool) -> float:
        def once() -> list[float]:
            self.together()
            begin = self.now()
            for _ in range(self.in_a_row if takes_part else 0):
                call()
            return [self.ms(begin, self.now()) / self.in_a_row]

        return self.repeated(once)[0]


class _TimedRanks:
    """Ranks that begin their collectives together, and note when they begin and end."""

    def __init__(self, ranks: Ranks, clock: _Clock) -> None:
        self._ranks = ranks
        self._clock = clock
        self.spans: list[float] = []
        """Milliseconds of each."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ranks, name)
        if name not in ("all_to_all", "all_gather", "reduce_scatter", "put"):
            return found

        def timed(*arguments: Any) -> None:
            self._clock.together()
            begin = self._clock.now()
            for _ in range(self._clock.in_a_row):
                found(*arguments)
            self.spans.append(self._clock.ms(begin, self._clock.now()) / self._clock.in_a_row)

        return timed


class _Steps:
    """The phases of a call, one after the other."""

    def __init__(self, kernel: FusedMoEKernel, share: RandomLayer) -> None:
        self.kernel, self.share = kernel, share
        self.prepared: PrepareResult | None = None
        self.output: torch.Tensor | None = None

    def dispatch(self) -> None:
        share, config = self.share, self.share.moe_config
        routing = Routing(share.topk_ids, config.num_experts, share.expert_map)
        self.prepared = self.kernel.prepare_finalize.prepare(
            share.hidden_states, share.topk_weights, routing, self.kernel.experts, len(share.w13)
        )

    def compute(self) -> None:
        share = self.share
        assert self.prepared is not None
        self.output = self.kernel.experts.apply(
            self.prepared, share.w13, share.w2, share.moe_config.activation
        )

    def combine(self) -> None:
        assert self.prepared is not None
        assert self.output is not None
        self.kernel.prepare_finalize.finalize(self.output, self.prepared)

    def all(self) -> list[Callable[[], None]]:
        return [self.dispatch, self.compute, self.combine]


def _phases(
    kernel: FusedMoEKernel, share: RandomLayer, clock: _Clock, graphs: bool
) -> tuple[Phase, float, Phase]:
    """Dispatch, milliseconds of the experts, combine. ``graphs``: timed as CUDA graphs."""
    over = kernel.prepare_finalize
    assert isinstance(over, PrepareAndFinalizeOverRanks)
    ranks, steps = over.ranks, _Steps(kernel, share)
    calls: list[Callable[[], object]] = [*steps.all()]
    captured = _Steps(kernel, share)  # holds what its graphs hand on
    if graphs:
        calls = [_recorded(step) for step in captured.all()]

    def phases() -> list[float]:
        spans = []
        for call in calls:
            clock.together()
            begin = clock.now()
            call()
            spans.append(clock.ms(begin, clock.now()))
        return spans

    timed = _TimedRanks(ranks, clock)

    def exchanges() -> list[float]:
        timed.spans = []
        for step in steps.all():
            step()
        return timed.spans

    dispatch_ms, experts_ms, combine_ms = clock.repeated(phases)
    over.ranks = timed  # type: ignore[assignment]
    try:
        out_ms, back_ms = clock.repeated(exchanges)
    finally:
        over.ranks = ranks
    assert steps.prepared is not None
    assert steps.prepared.exchange is not None
    sent, received = over.rows_moved(steps.prepared.exchange)
    wide = share.hidden_states.shape[1] * share.hidden_states.element_size()
    dispatch = _phase(dispatch_ms, out_ms, sent, received, steps.prepared.exchange.row_bytes)
    combine = _phase(combine_ms, back_ms, received, sent, wide)
    return dispatch(ranks, clock), experts_ms, combine(ranks, clock)


def _recorded(step: Callable[[], object]) -> Callable[[], None]:
    """Replays of a CUDA graph of ``step``, recorded once, as it changes what the next one takes."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def _phase(
    ms: float, exchange_ms: float, sent: Sequence[int], received: Sequence[int], row_bytes: int
) -> Callable[[Ranks, _Clock], Phase]:
    """A phase whose bytes are still to be exchanged bare."""

    def bare(ranks: Ranks, clock: _Clock) -> Phase:
        rows = torch.zeros(sum(sent), row_bytes, dtype=torch.uint8, device=clock.device)
        arrived = rows.new_empty(sum(received), row_bytes)
        splits = list(received), list(sent)
        bare_ms = clock.slowest(lambda: ranks.all_to_all(arrived, rows, *splits))
        own = (sum(sent) - sent[ranks.rank]) * row_bytes
        most = int(max(value for (value,) in clock.gathered([own])))
        return Phase(ms, exchange_ms, bare_ms, most)

    return bare
