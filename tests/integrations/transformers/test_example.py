"""The example runs as its docstring says."""

import runpy
from pathlib import Path

from transformers.utils import logging

EXAMPLE = Path(__file__).parents[3] / "examples" / "transformers_generate.py"


def test_the_tokens_of_the_example_are_those_of_eager(capsys, log):
    verbosity = logging.get_verbosity()
    try:
        assert runpy.run_path(str(EXAMPLE))["main"]([]) == 0
    finally:
        logging.set_verbosity(verbosity)
    here, eager = capsys.readouterr().out.splitlines()[-2:]
    assert here.removeprefix("moe_rules: ") == eager.removeprefix("eager:     ")
    assert "CPU / CPUUnquantizedExperts, because" in log.text
