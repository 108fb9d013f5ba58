"""``python -m tools.site FOLDER``: writes the pages and configuration of the site."""

from __future__ import annotations

import sys
from pathlib import Path

from moe_rules.files.packaged import packaged_rules
from tools.site.building import HOME, write

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.site FOLDER")
    if not (packaged_rules().parent / HOME).is_file():
        sys.exit("the site is made of a checkout, with its docs")
    write(Path(sys.argv[1]))
