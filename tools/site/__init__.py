"""The documentation as a site: pages made of the tables and commands, beside those written by hand.

``python -m tools.site FOLDER`` writes Markdown and a configuration, of which Zensical makes the
site (``make docs-site``). Nothing here is asked by a selection.
"""
