"""Build hook of the wheel: brings along what reading makes of the packaged tables.

An installed moe_rules then decides without reading YAML (``moe_rules/files/stored.py``). In a
checkout tables are edited; there it is kept in the user's cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LOAD_ALL = """
from moe_rules.files.releases import releases
from moe_rules.language.ruleset import load_platform
from moe_rules.vocabulary.table_names import PLATFORMS
from moe_rules.machines.machine import named_machines
from moe_rules.models.tables import load_tables

for release in [None, *(one.name for one in releases())]:
    for platform in PLATFORMS:
        load_platform(platform, release=release)
    tables = load_tables(release=release)
    tables.registry, tables.mistral
named_machines()
"""


class StoredTables(BuildHookInterface):
    """Loads every packaged table with a folder of the wheel as the cache."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the folder, unless the checkout itself is installed."""
        if version == "editable":
            return
        self._folder = TemporaryDirectory()
        # An isolated build has its packages in folders that only this process knows.
        path = os.pathsep.join([self.root, *sys.path])
        environ = {**os.environ, "MOE_RULES_CACHE": self._folder.name, "PYTHONPATH": path}
        subprocess.run([sys.executable, "-c", LOAD_ALL], env=environ, cwd=self.root, check=True)
        if not any(Path(self._folder.name).iterdir()):
            raise RuntimeError("nothing was stored of the packaged tables")
        build_data["force_include"][self._folder.name] = "moe_rules/stored"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the folder, which is in the wheel now."""
        if version != "editable":
            self._folder.cleanup()
