"""Tests that are left to ``make test-transformers``, which sets MOE_RULES_LONG."""

import os

import pytest

LONG = bool(os.environ.get("MOE_RULES_LONG"))
long = pytest.mark.skipif(not LONG, reason="left to make test-transformers")
