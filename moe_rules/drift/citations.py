"""What of an engine's source the tables say again: ``rules/sources.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from moe_rules.files.packaged import packaged_rules
from moe_rules.files.validate import validate
from moe_rules.files.yaml_source import read_yaml
from moe_rules.language.files import Table
from moe_rules.vocabulary.table_names import OracleName

if TYPE_CHECKING:
    from moe_rules.files.yaml_source import YamlSource

SOURCES = "sources.yaml"
SECTIONS = ("requests", "priority", "backends")


class OracleSources(Table):
    """Where an oracle decides."""

    module: str = Field(description="The module of all functions that are named here.")
    whole: list[str] = Field(description="The functions that select.")
    requests: list[str] = Field([], description="What `requests` of the table says again.")
    priority: list[str] = Field([], description="What `priority` and `adjust` say again.")
    backends: list[str] = Field([], description="What `backends` says again.")


class KernelSources(Table):
    """How kernels are asked."""

    base: str = Field(description="The class that kernels derive from.")
    asked: list[str] = Field(description="The methods by which they are asked; * for any text.")


class CallerSources(Table):
    """Whoever calls some functions."""

    of: list[str] = Field(description="Functions; * for any text.")
    rows: str | None = Field(None, description="The table of the file that has a row for each.")
    registry: str | None = Field(
        None, description="The module whose mappings of names of rows to (module, name) say which."
    )


class SourcesFile(Table):
    """What of an engine's source the tables say again."""

    package: str = Field(description="The engine's package.")
    oracles: dict[OracleName, OracleSources] = Field(description="Functions by oracle.")
    kernels: KernelSources = Field(description="Methods of the kernels' classes.")
    files: dict[str, list[str]] = Field({}, description="Definitions by the file of tables.")
    callers: dict[str, CallerSources] = Field(
        {}, description="By the file of tables: functions, any caller of which is said again there."
    )
    overriding: list[str] = Field(
        [], description="Modules whose classes may stand for those that they derive from."
    )
    aside: list[str] = Field([], description="Definitions that do not count.")


def read_sources(rules: Path | None = None) -> tuple[SourcesFile, YamlSource]:
    """The file of a rule set, and where what stands in it. Raises RuleFileError."""
    source = read_yaml((rules or packaged_rules()) / SOURCES)
    return validate(SourcesFile, source), source
