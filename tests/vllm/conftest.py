"""These tests are about the real vLLM: where it is not installed, there is nothing to collect."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = ["*"] if importlib.util.find_spec("vllm") is None else []
