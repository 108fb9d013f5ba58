"""One file of a platform's rules as it was read: what it says, where, and if as an overlay."""

from __future__ import annotations

from dataclasses import dataclass

from moe_rules.files.yaml_source import YamlSource
from moe_rules.language.files import PlatformFile


@dataclass(frozen=True)
class Part:
    """One file of a platform."""

    source: YamlSource
    file: PlatformFile
    overlay: bool = False
