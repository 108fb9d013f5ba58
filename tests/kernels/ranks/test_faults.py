"""A rank that ends or hangs: the others raise an error with its name, within the timeout."""

import os
import socket
import threading
import time

import pytest
from moe_kernels.ranks import group
from moe_kernels.ranks.agreement import RankError
from moe_kernels.ranks.group import Ranks
from rank_pool import RankPool
from test_exchanges import EXCHANGES, Case

TIMEOUT = 3.0
"""What ranks take for the timeout of their group, which has more to start in."""
PATIENCE = 30.0
CASE = Case((3, 2, 4, 3))


def lose(rank, size, exchange, lost, how):
    """What a rank is told of one that leaves between two calls, and how long it waited."""
    share = CASE.share(CASE.whole(), rank, exchange)
    kernel = CASE.kernel_of(share, exchange)
    kernel.apply(**share.arguments())
    if rank == lost:
        leave(how)
    begin = time.monotonic()
    try:
        for _ in range(3):
            kernel.apply(**share.arguments())
    except RankError as error:
        return str(error), time.monotonic() - begin


def leave(how):
    if how == "ends":
        os._exit(1)
    time.sleep(3 * PATIENCE)


def hurry(*_):
    """Let hangs be found early in this process."""
    group._timeout_of = lambda group: TIMEOUT


@pytest.fixture
def disposable():
    """Makes pools of which a rank is to be lost."""
    made = []

    def make(**options):
        made.append(RankPool(4, PATIENCE, **options))
        return made[-1]

    yield make
    for pool in made:
        pool.stop()


def told(pool, lost):
    """What the other ranks were told, and the longest that one of them waited."""
    answers = [pool.answer(rank) for rank in range(4) if rank != lost]
    assert all(done and value is not None for done, value in answers), answers
    messages, seconds = zip(*(value for _, value in answers), strict=True)
    return messages, max(seconds)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_rank_that_ends_is_named_at_once(disposable, exchange):
    pool = disposable()
    pool.start(lose, exchange, 2, "ends")
    messages, seconds = told(pool, 2)
    for message in messages:
        assert message.startswith(f"rank 2 (process {pool.processes[2].pid} on "), message
        assert ") is gone: " in message
        assert "in call 2 of a layer" in message
    assert seconds < PATIENCE / 2


@pytest.mark.parametrize("exchange", ["gather", "all to all, fixed"])
def test_a_rank_that_hangs_is_named_within_the_timeout(disposable, exchange):
    pool = disposable()
    pool.run(hurry)
    pool.start(lose, exchange, 1, "hangs")
    messages, seconds = told(pool, 1)
    for message in messages:
        assert message.startswith(f"rank 1 (process {pool.processes[1].pid} on "), message
        assert f"did not take part within {TIMEOUT:g} s" in message
    assert seconds < 2 * TIMEOUT  # the machine may be busy


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_the_rank_with_the_store_ends(disposable):
    pool = disposable(store_at=free_port())
    pool.start(lose, "all to all", 0, "ends")
    messages, seconds = told(pool, 0)
    assert all(message.startswith("rank 0") and "is gone" in message for message in messages)
    assert seconds < PATIENCE / 2


def test_the_rank_with_the_store_waits_until_the_others_have_read(disposable):
    pool = disposable(store_at=free_port())
    pool.start(lose_and_end, 3)
    messages, _ = told(pool, 3)
    assert all(message.startswith("rank 3 (") for message in messages)


def lose_and_end(rank, size, lost):
    """Every rank ends as soon as it was told."""
    answer = lose(rank, size, "all to all", lost, "ends")
    threading.Timer(0.1, os._exit, (0,)).start()  # after the answer was sent
    return answer


def absent(rank, size, lost):
    if rank == lost:
        leave("hangs")
    begin = time.monotonic()
    try:
        CASE.kernel_of(CASE.share(CASE.whole(), rank, "gather"), "gather")
    except RankError as error:
        return str(error), time.monotonic() - begin


def test_a_rank_that_never_comes_is_named(disposable):
    pool = disposable()
    pool.run(hurry)
    pool.start(absent, 3)
    messages, seconds = told(pool, 3)
    for message in messages:
        assert message.startswith("rank 3 of 4 ranks did not come to agree on a layer within 3 s")
    assert seconds < 2 * TIMEOUT  # the machine may be busy


def timeout(rank, size):
    return Ranks().timeout


def test_the_timeout_is_the_groups(disposable):
    assert disposable().run(timeout) == [PATIENCE] * 4


def go_on_after_an_error(rank, size):
    """What ranks are told when the experts of one raise an error, and it calls the next layer."""
    share = CASE.share(CASE.whole(), rank, "all to all")
    kernels = [CASE.kernel_of(share, "all to all") for _ in range(2)]

    def fail(*_):
        raise MemoryError

    for kernel in kernels:
        kernel.apply(**share.arguments())
    if rank == 2:
        kernels[0].experts.apply = fail
    said = []
    for kernel in kernels:
        try:
            kernel.apply(**share.arguments())
        except (MemoryError, RankError) as error:
            said.append(str(error))
    return said


def test_after_an_error_in_a_call_nothing_is_sent(disposable):
    pool = disposable()
    pool.run(hurry)
    answers = pool.run(go_on_after_an_error)
    assert answers[2][1].startswith("a call of a layer has begun on rank 2 and not ended: ")
    for rank in (0, 1, 3):
        assert "rank 2" in answers[rank][0]
