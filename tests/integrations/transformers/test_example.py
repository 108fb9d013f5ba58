"""The example runs as its docstring says."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "examples" / "transformers_generate.py"


def test_the_tokens_of_the_example_are_those_of_eager():
    # A process of its own, for here the name is registered already.
    done = subprocess.run(
        [sys.executable, EXAMPLE], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    here, eager = done.stdout.splitlines()[-2:]
    assert here.removeprefix("moe_rules: ") == eager.removeprefix("eager:     ")
    assert "CPU / CPUUnquantizedExperts, because" in done.stderr
