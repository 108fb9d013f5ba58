"""A page per platform: its oracles with their orders, its machines, and where its rules stand."""

from __future__ import annotations

from collections.abc import Iterator

from moe_rules.files.problems import Location
from moe_rules.language.rules import PlatformRules
from moe_rules.machines.machine import named_machines
from moe_rules.vocabulary.fact_values import in_words
from tools.site.kernels import kernels_page
from tools.site.markdown import WIDE, Page, code, document, heading, link, place, section, table
from tools.site.oracles import oracle_page
from tools.site.tables import page_of_kernels, platforms, to_backend, to_oracle

OVERVIEW = """\
A decision is made by the tables of one platform. Each of its **oracles** decides for the layers of
one kind of quantization: it has **backends** in an order, each with **kernels**, which say what
they require of a layer and its deployment. The page of an oracle has all that it asks, in the order
in which it asks.
"""


def platform_pages() -> Iterator[Page]:
    """The overview, then each platform's page, those of its oracles and that of its kernels."""
    yield Page("platforms/index.md", "Overview", _overview())
    for platform, rules in platforms().items():
        yield Page(f"platforms/{platform}/index.md", platform, _platform(rules))
        for oracle in rules.oracles.values():
            yield Page(
                f"platforms/{platform}/{oracle.name}.md", oracle.name, oracle_page(rules, oracle)
            )
        yield Page(page_of_kernels(platform)[1:], "Kernels", kernels_page(rules))
    yield Page("platforms/machines.md", "Machines", _machines_page())


def _overview() -> str:
    oracles = list(dict.fromkeys(name for rules in platforms().values() for name in rules.oracles))
    head = ["", *(link(platform, f"/platforms/{platform}/index.md") for platform in platforms())]
    rows = [
        [oracle, *(_first(rules, oracle) for rules in platforms().values())] for oracle in oracles
    ]
    rows.append(["kernels", *(_kernel_count(rules) for rules in platforms().values())])
    return document(
        WIDE,
        heading(1, "Platforms"),
        OVERVIEW,
        "The first backend of each order, before it is adjusted and before any kernel is asked:",
        table(head, rows),
    )


def _first(rules: PlatformRules, oracle: str) -> str:
    if oracle not in rules.oracles:
        return ""
    order = rules.oracles[oracle].priority
    return to_oracle(rules.platform, oracle).replace(f"[{oracle}]", f"[{(*order, 'no order')[0]}]")


def _kernel_count(rules: PlatformRules) -> str:
    return link(str(len(rules.kernels)), page_of_kernels(rules.platform))


def _platform(rules: PlatformRules) -> str:
    platform = rules.platform
    rows = [
        [
            to_oracle(platform, oracle.name),
            ", ".join(to_backend(platform, oracle.name, name) for name in oracle.priority)
            or "none: see its steps",
            place(oracle.location),
        ]
        for oracle in rules.oracles.values()
    ]
    kernels = link(
        f"what each of its {len(rules.kernels)} kernels requires", page_of_kernels(platform)
    )
    return document(
        heading(1, f"Platform {platform}"),
        f"Here is {kernels}, and in which order each oracle tries its backends:",
        table(["oracle", "order, before adjustments", "rules"], rows),
        section(2, "Machines", _machines(platform)),
        section(2, "Rule files", "\n".join(f"- {place(Location(file))}" for file in rules.files)),
    )


def _machines(platform: str | None = None) -> str:
    rows = [
        [
            code(machine.name),
            machine.product,
            ", ".join(
                f"{name} {in_words(value)}"
                for name, value in machine.platform.items()
                if name not in ("device", "device_name") and value is not None
            ),
            ", ".join(map(code, machine.aliases)),
        ]
        for machine in named_machines().values()
        if platform in (None, machine.platform["device"])
    ]
    return table(["`--machine`", "product", "facts", "also called"], rows)


def _machines_page() -> str:
    return document(
        WIDE,
        heading(1, "Machines"),
        "What `--machine` may name, besides a file that `moe-rules detect` recorded "
        f"({link('rules/machines.yaml', '/rules/machines.yaml')}).",
        _machines(),
    )
