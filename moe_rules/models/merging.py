"""A row of an architecture laid over another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``; the parts ``routing`` and ``layers`` field by field."""
    result = {**base, **over}
    for part in ("routing", "layers"):
        if part in base and part in over:
            result[part] = {**base[part], **over[part]}
    return result
