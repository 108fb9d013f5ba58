"""The page of what ``moe-rules verify`` finds in the packaged tables, accepted or not."""

from __future__ import annotations

from collections.abc import Iterable

from moe_rules.cli.verifying import Judged
from moe_rules.language.finding_codes import CODES
from tools.site.markdown import Page, code, document, heading, place, section, table
from tools.site.tables import to_oracle


def findings_page(judged: Iterable[Judged]) -> Page:
    """Every finding with the reason for which it is accepted, by its code."""
    rows: dict[str, list[list[str]]] = {}
    for one in judged:
        finding = one.finding
        row = [
            one.platform,
            to_oracle(one.platform, finding.oracle),
            finding.message,
            one.accepted or "**not accepted**",
            place(finding.location),
        ]
        rows.setdefault(finding.code, []).append(row)
    head = ["platform", "oracle", "found", "accepted because", "line"]
    count = sum(map(len, rows.values()))
    told = document(
        heading(1, "Findings"),
        f"What `moe-rules verify` finds in the packaged tables: {count} places that hold of all "
        "deployments and that the reference has, too, so that the rules accept them with a reason. "
        "What each code means and how to accept one is in [Verifying rules](/docs/verify.md).",
        *(
            section(2, code(code_), f"{CODES[code_]}\n\n{table(head, rows[code_])}")
            for code_ in CODES
            if code_ in rows
        ),
    )
    return Page("findings.md", "Findings of verify", told)
