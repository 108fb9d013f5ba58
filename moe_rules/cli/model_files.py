"""Reads a model's config.json, and hf_quant_config.json beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moe_rules.cli.errors import UserError


def read_model(path: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """config.json at ``path`` (a file, or its folder) and the quantization file, if there is one.

    Raises UserError with ``file:line:column`` for what is not a JSON object.
    """
    given = Path(path)
    config = given / "config.json" if given.is_dir() else given
    if not config.exists():
        what = "the folder has no config.json" if given.is_dir() else "there is no such file"
        raise UserError(f"--model {path}: {what}")
    beside = config.with_name("hf_quant_config.json")
    has_quantization = config.name == "config.json" and beside.is_file()
    return read_object(config), read_object(beside) if has_quantization else None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a JSON object was expected, not {type(data).__name__}")
    return data
