"""``python -m moe_rules``: the command line."""

from moe_rules.cli import main

raise SystemExit(main())
