"""JUnit XML, which test reporters of build servers read: one test case for each file or example."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from moe_rules.reporting.base import Report, Reporter

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class JunitReporter(Reporter):
    """What has errors fails; its warnings are its output."""

    def report(self, report: Report) -> str:
        """See :class:`Reporter`."""
        name = f"moe-rules {report.command}"
        suite = ElementTree.Element(
            "testsuite",
            name=name,
            tests=str(len(report.cases)),
            failures=str(sum(case.failed for case in report.cases)),
            errors="0",
            skipped="0",
        )
        for one in report.cases:
            classname = name if one.name == one.file else f"{name} {_text(one.file)}"
            case = ElementTree.SubElement(
                suite, "testcase", classname=classname, name=_text(one.name)
            )
            errors = [p for p in one.problems if p.severity == "error"]
            if errors:
                failure = ElementTree.SubElement(
                    case, "failure", type=errors[0].code, message=_text(errors[0].message)
                )
                failure.text = _text("\n".join(map(str, errors)))
            warnings = [p for p in one.problems if p.severity == "warning"]
            if warnings:
                output = ElementTree.SubElement(case, "system-out")
                output.text = _text("\n".join(map(str, warnings)))
        ElementTree.indent(suite)
        body = ElementTree.tostring(suite, encoding="unicode")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'


def _text(text: str) -> str:
    """``text`` without the characters that XML cannot hold."""
    return _NOT_XML.sub("�", text)
