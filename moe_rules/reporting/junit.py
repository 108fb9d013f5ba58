"""JUnit XML, which test reporters of build servers read: one test case for each file."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from moe_rules.reporting.base import Report, Reporter

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class JunitReporter(Reporter):
    """A file with errors fails; its warnings are its output."""

    def report(self, report: Report) -> str:
        """See :class:`Reporter`."""
        failing = {p.location.file for p in report.problems if p.severity == "error"}
        suite = ElementTree.Element(
            "testsuite",
            name="moe-rules check",
            tests=str(len(report.files)),
            failures=str(len(failing)),
            errors="0",
            skipped="0",
        )
        for file in report.files:
            case = ElementTree.SubElement(
                suite, "testcase", classname="moe-rules check", name=_text(file)
            )
            found = [p for p in report.problems if p.location.file == file]
            errors = [p for p in found if p.severity == "error"]
            if errors:
                failure = ElementTree.SubElement(
                    case, "failure", type=errors[0].code, message=_text(errors[0].message)
                )
                failure.text = _text("\n".join(map(str, errors)))
            warnings = [p for p in found if p.severity == "warning"]
            if warnings:
                output = ElementTree.SubElement(case, "system-out")
                output.text = _text("\n".join(map(str, warnings)))
        ElementTree.indent(suite)
        body = ElementTree.tostring(suite, encoding="unicode")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'


def _text(text: str) -> str:
    """``text`` without the characters that XML cannot hold."""
    return _NOT_XML.sub("�", text)
