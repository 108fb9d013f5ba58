"""A model's config.json or params.json, and hf_quant_config.json beside it: found, and read.

A model is given as a file, as its folder, or by its name ``ORG/NAME`` on the Hugging Face Hub, of
which only the local cache is asked.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_rules.cli.errors import UserError
from moe_rules.cli.json_lines import line_of
from moe_rules.cli.schemes import in_scheme
from moe_rules.vocabulary.record import Record

if TYPE_CHECKING:
    from moe_rules.models.hf_config import FileNames
    from moe_rules.models.tables import Tables

CONFIG = "config.json"
DEEPEST = 100
"""Several times as many mappings and lists inside each other as any configuration has."""
PARAMS = "params.json"
CONSOLIDATED = "consolidated*.safetensors"
"""Weights in Mistral's format, of whose checkpoints vLLM reads params.json and not config.json."""
QUANTIZATION = "hf_quant_config.json"
WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".safetensors.index.json")
"""How names of files end that hold weights, or list them, and no configuration."""
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
CACHED = "models--"
"""How the name of a repository's folder in the cache begins; "--" stands for "/" in it."""


class ModelFiles(Record):
    """What a model is called, its config.json, and its hf_quant_config.json if it has one.

    ``path`` leads to the file that holds the configuration. ``texts`` are those of the files, by
    their paths: what comes through a pipe can be read only once.
    """

    name: str
    config: dict[str, Any]
    hf_quant_config: dict[str, Any] | None
    path: Path
    texts: Mapping[Path, str]

    @property
    def names(self) -> FileNames:
        """What messages call the files."""
        from moe_rules.models.hf_config import FileNames

        return FileNames(str(self.path), str(self.path.with_name(QUANTIZATION)))

    def with_line(self, where: str) -> str:
        """The place of a value in one of the files, with the line where it stands."""
        for file, text in self.texts.items():
            if where.startswith(f"{file}: "):
                inside = where.removeprefix(f"{file}: ")
                line = line_of(inside, text)
                return where if line is None else f"{file}:{line}: {inside}"
        return where

    def in_scheme(self, name: str) -> ModelFiles:
        """The model as a checkpoint in a format of that name would be. Raises UserError."""
        return self.replaced(config=in_scheme(self.config, name), hf_quant_config=None)


def read_model(given: str, tables: Tables | None = None) -> ModelFiles:
    """The files of the model that ``--model`` names, read with ``tables`` (or the packaged ones).

    Raises UserError where there is no such model, with ``file:line:column`` for what is not a JSON
    object.
    """
    path = _config_file(given)
    if path.name == PARAMS:
        return _in_mistral_format(path, tables)
    beside, hf_quant_config, texts = path.with_name(QUANTIZATION), None, {}
    config, texts[path] = read_object(path)
    if path.name == CONFIG and beside.is_file():
        hf_quant_config, texts[beside] = read_object(beside)
    return ModelFiles(_name_of(path), config, hf_quant_config, path, texts)


def _in_mistral_format(path: Path, tables: Tables | None) -> ModelFiles:
    """The model of a params.json. Raises UserError."""
    from moe_rules.models.mistral import config_of

    beside = path.with_name(CONFIG)
    config_json = read_object(beside)[0] if beside.is_file() else None
    params, text = read_object(path)
    config = config_of(params, config_json, tables=tables, name=str(path))
    return ModelFiles(path.absolute().parent.name, config, None, path, {path: text})


def _config_file(given: str) -> Path:
    """The file that holds the configuration. Raises UserError."""
    path = Path(given)
    if path.is_dir():
        return _in_folder(path)
    if given.endswith(WEIGHTS):
        raise UserError(f"--model {given}: {_instead_of_weights(path)}")
    if path.exists():
        return path
    if REPOSITORY.fullmatch(given) and not given.endswith(".json"):
        return _in_cache(given)
    raise UserError(f"--model {given}: there is no such file or folder{_beside(path)}")


def _beside(path: Path) -> str:
    """The name in the folder of a file that is not there which looks most like its own."""
    from moe_rules.vocabulary.fact_values import nearest

    folder = path.parent
    names = (one.name for one in folder.iterdir()) if folder.is_dir() else ()
    close = nearest(path.name, names)
    return f"; did you mean {path.with_name(close)}?" if close else ""


def _in_folder(folder: Path) -> Path:
    in_mistral_format = (folder / PARAMS).is_file() and any(folder.glob(CONSOLIDATED))
    if (folder / CONFIG).is_file() and not in_mistral_format:
        return folder / CONFIG
    if (folder / PARAMS).is_file():
        return folder / PARAMS
    name = folder.absolute().name
    if name.startswith(CACHED):
        return _in_cache(name.removeprefix(CACHED).replace("--", "/"), folder.absolute().parent)
    message = f"--model {folder}: the folder has no {CONFIG} (nor Mistral's {PARAMS})"
    weights = next((file for file in sorted(folder.iterdir()) if file.name.endswith(WEIGHTS)), None)
    if weights is not None:
        message += f"; {weights.name} is in it, but {_instead_of_weights(weights)}"
    raise UserError(message)


def _instead_of_weights(path: Path) -> str:
    """What to give in place of a file of weights."""
    if path.suffix == ".gguf":
        return (
            "a GGUF file holds no config.json, and vLLM 0.33.0 has no GGUF quantization; give the "
            "config.json, the folder or ORG/NAME of the model that it was converted from"
        )
    beside = path.with_name(CONFIG)
    where = f"give {beside}" if beside.is_file() else f"give the {CONFIG} that belongs to it"
    return f"it holds weights and no configuration; {where}, its folder, or ORG/NAME"


def _in_cache(repository: str, cache: Path | None = None) -> Path:
    """config.json of a repository in the Hugging Face cache. Nothing is fetched."""
    try:
        from huggingface_hub import constants, try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        raise UserError(
            f"--model {repository}: there is no such file or folder; to find it in the Hugging "
            "Face cache, install huggingface_hub: pip install 'moe-rules[hub]'"
        ) from None
    try:
        found = try_to_load_from_cache(repository, CONFIG, cache_dir=cache)
    except HFValidationError as error:
        raise UserError(f"--model {repository}: there is no such file or folder; {error}") from None
    if isinstance(found, str):
        return Path(found)
    raise UserError(
        f"--model {repository}: there is no such file or folder, and the Hugging Face cache "
        f"({cache or constants.HF_HUB_CACHE}) has no {CONFIG} of a repository of that name\n"
        f"  this fetches it alone, without the weights: hf download {repository} {CONFIG}\n"
        f"  a checkpoint made by ModelOpt needs {QUANTIZATION} as well"
    )


def _name_of(path: Path) -> str:
    """What to call the model of a file: its repository, its folder if it is config.json, its name.

    Links are not followed: those of the Hugging Face cache lead to files named by a hash.
    """
    path = Path(os.path.abspath(path))
    for part in path.parts:
        if part.startswith(CACHED):
            return part.removeprefix(CACHED).rpartition("--")[2]
    return path.parent.name if path.name == CONFIG else path.name.removesuffix(".json")


def read_object(path: Path) -> tuple[dict[str, Any], str]:
    """A JSON object from a file, and the file's text. Raises UserError.

    Of a key given twice the last value counts, as transformers reads it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip():
            raise UserError(f"{path}: the file is empty; a JSON object was expected")
        data = json.loads(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except ValueError as error:  # a number that Python does not take
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a JSON object was expected, not {type(data).__name__}")
    if _depth(data) > DEEPEST:
        raise UserError(f"{path}: nested too deeply")
    return data, text


def _depth(data: object) -> int:
    """How many mappings and lists stand inside each other."""
    depth, level = 0, [data]
    while level:
        depth += 1
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return depth
