"""A small stand-in for an engine: a package of two oracles with kernels, written to a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moe_rules.drift.citations import CallerSources, KernelSources, OracleSources, SourcesFile
from moe_rules.drift.reading import read_release
from moe_rules.drift.release import Release
from moe_rules.drift.source import Source

FILES = {
    "__init__.py": "from .engine.config import Config",
    "_version.py": "__version__ = version = '1.0.0+build'",
    "envs.py": """
import os
switches = {
    "SWITCH": lambda: os.getenv("SWITCH"),
    "OTHER": lambda: os.getenv("OTHER"),
}
""",
    "engine/__init__.py": "",
    "engine/config.py": """
from dataclasses import dataclass
@dataclass
class Parallel:
    size: int = 1
    @property
    def several(self) -> bool:
        return self.size > 1
@dataclass
class Config:
    parallel: Parallel
    unused: int = 3
""",
    "engine/kernels.py": """
from engine_package import envs
class Base:
    @classmethod
    def supported(cls, config) -> bool:
        return cls._takes(config)
    @staticmethod
    def _takes(config): raise NotImplementedError
class Fast(Base):
    @staticmethod
    def _takes(config): return envs.SWITCH == "1"
    def apply(self): return 1
class Slow(Base):
    @classmethod
    def supported(cls, config):
        return helper() and super().supported(config)
    @staticmethod
    def _takes(config): return True
def helper(): return LIMIT
LIMIT = 8
""",
    "engine/oracle.py": """
from enum import Enum
from engine_package import Config
class Backend(Enum):
    FAST = "fast"
    SLOW = "slow"
    UNUSED = "unused"
def order(config: Config) -> list[Backend]:
    if config.parallel.several:
        return [Backend.SLOW]
    return [Backend.FAST, Backend.SLOW]
def kernels(backend):
    from .kernels import Fast, Slow
    return Fast if backend == Backend.FAST else Slow
def select_backend(config: Config):
    return [kernels(backend) for backend in order(config)]
def convert(weights): return weights
""",
    "engine/models.py": """
from .oracle import select_backend
class Method:
    def __init__(self, config):
        self.kernel = select_backend(config)
    def apply(self): return unused()
""",
}
CITED = SourcesFile(
    package="engine_package",
    oracles={
        "fp8": OracleSources(
            module="engine_package.engine.oracle",
            whole=["select_backend"],
            priority=["order"],
            backends=["kernels"],
        )
    },
    kernels=KernelSources(base="engine_package.engine.kernels:Base", asked=["supported", "_takes"]),
    callers={"models.yaml": CallerSources(of=["select_*"])},
    aside=["engine_package.envs:switches"],
)

Write = Callable[..., Path]
Read = Callable[..., Release]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the package with files changed: by name, a text and what takes its place."""

    def written(name: str = "one", **changes: tuple[str, str]) -> Path:
        for file, text in FILES.items():
            old, new = changes.get(Path(file).stem, ("", ""))
            assert old in text
            path = tmp_path / name / "engine_package" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace(old, new) if old else text)
        return tmp_path / name

    return written


@pytest.fixture
def read(write: Write) -> Read:
    """The release of the package with files changed."""

    def release(name: str = "one", **changes: tuple[str, str]) -> Release:
        return read_release(Source(write(name, **changes), CITED.package), CITED)

    return release
