"""The page of what may be requested by name, and what each name means on each platform."""

from __future__ import annotations

from tools.site.conditions import sentence
from tools.site.markdown import Page, code, document, heading, place, section, table
from tools.site.oracles import requested
from tools.site.tables import requests, to_oracle


def request_page() -> Page:
    """Every name of ``moe_backend``."""
    rows: dict[str, list[list[str]]] = {}
    for name, platform, oracle, case in requests():
        rows.setdefault(name, []).append(
            [
                platform,
                to_oracle(platform, oracle),
                requested(platform, oracle, case),
                sentence(case.when),
                place(case.reason.location),
            ]
        )
    head = ["platform", "oracle", "asks", "where", "line"]
    told = document(
        heading(1, "Requests"),
        "What `--moe-backend` may name, and the backends that each name asks. What cannot serve is "
        "an error. `requested` in rules and the variable `MOE_RULES_BACKEND` ask by oracle and by "
        "role of the model ([Asking for a backend](/docs/rules.md#asking-for-a-backend)).",
        *(section(2, code(name), table(head, rows[name])) for name in sorted(rows)),
    )
    return Page("requests.md", "Requests", told)
