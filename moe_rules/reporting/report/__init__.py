"""The page that ``moe-rules report`` writes: one file that shows decisions and their reasons.

The page is ``index.html``, ``style.css`` and the modules of ``*.js``, as a browser reads them;
:mod:`~moe_rules.reporting.report.page` puts them and one block of JSON into a file. What is in the
block says :mod:`~moe_rules.reporting.report.schema`, and
:mod:`~moe_rules.reporting.report.tables` fills it.
"""
