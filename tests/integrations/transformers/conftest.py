"""What the tests of transformers share."""

import logging

import pytest

pytest.importorskip("transformers")

import torch

from moe_rules.integrations.transformers.saying import logger


@pytest.fixture(autouse=True)
def one_thread():
    """Small models gain nothing from threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def log(caplog, monkeypatch):
    """What this package says, as if nothing had been said before."""
    monkeypatch.setattr("moe_rules.integrations.transformers.saying._said", set())
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.INFO, logger=logger.name)
    ours = logging.Filter(logger.name)
    caplog.handler.addFilter(ours)
    yield caplog
    caplog.handler.removeFilter(ours)
