"""What changed from release to release, by platform and oracle: ``docs/releases.md``.

``python -m moe_rules.cli.releases_page --write`` writes it. It is what ``moe-rules upgrade`` finds
of every deployment, for each release and the one before it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise

from moe_rules.cli import build_parser
from moe_rules.cli.difference_formats import item_of
from moe_rules.cli.differing import Found
from moe_rules.cli.rule_sets import release_pair
from moe_rules.cli.upgrade_formats import name_lines, title
from moe_rules.cli.upgrading import KINDS, Upgrade, kind_of, upgrade
from moe_rules.files.releases import releases
from moe_rules.reporting.generated import write_page

INTRODUCTION = """\
# What releases of vLLM changed

This file is generated from the tables: `python -m moe_rules.cli.releases_page --write`.

Every region of deployments that two releases decide differently, for each oracle and platform:
what came out before and comes out now, under which conditions, and a command that explains one
such deployment (`--release` names the newer one; with the older one it explains that). What is not
listed is decided alike, which is proven. What of it a model meets, `moe-rules upgrade --model
config.json --machine h100` tells."""


def document() -> str:
    """``docs/releases.md``: a section for each release, the latest first."""
    parts = [INTRODUCTION]
    for newer, older in pairwise(releases()):
        args = build_parser(["upgrade"]).parse_args(["upgrade"])
        parts += _section(upgrade(args, *release_pair(older.name, newer.name)))
    return "\n\n".join(parts) + "\n"


def _section(found: Upgrade) -> Iterator[str]:
    yield f"## {title(found)}"
    yield "\n".join(name_lines(found.names, "- "))
    regions: dict[str, dict[str, list[Found]]] = {}
    for asked in found.asked:
        for one in asked.comparison.differences if asked.comparison else ():
            difference = one.difference
            by_oracle = regions.setdefault(difference.platform, {})
            by_oracle.setdefault(difference.oracle, []).append(one)
    for platform in sorted(regions):
        for oracle in sorted(regions[platform]):
            yield f"### {oracle} on {platform}"
            yield "\n".join(_items(regions[platform][oracle], found))


def _items(regions: list[Found], found: Upgrade) -> Iterator[str]:
    for kind, words in KINDS.items():
        for one in regions:
            if kind_of(one.difference.before, one.difference.after) == kind:
                yield from item_of(one, found.after, words)


def main(arguments: list[str] | None = None) -> int:
    """Print the document, or write it to ``docs/releases.md`` with ``--write``."""
    return write_page("moe_rules.cli.releases_page", "releases.md", document, arguments)


if __name__ == "__main__":
    sys.exit(main())
