"""Pools of ranks that the tests of a process share."""

import functools

import pytest
from rank_pool import RankPool


@pytest.fixture(scope="session")
def pools():
    """A pool by its number of ranks, started when it is first asked for."""
    made = []

    @functools.cache
    def pool(size):
        made.append(RankPool(size))
        return made[-1]

    yield pool
    for one in made:
        one.stop()
