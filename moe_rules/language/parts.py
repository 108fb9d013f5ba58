"""One file of a platform's rules as it was read: what it says, where, and if as an overlay."""

from __future__ import annotations

from moe_rules.files.yaml_source import YamlSource
from moe_rules.language.files import PlatformFile
from moe_rules.vocabulary.record import Record


class Part(Record):
    """One file of a platform."""

    source: YamlSource
    file: PlatformFile
    overlay: bool = False
