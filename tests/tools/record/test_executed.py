"""What belongs to selection is read off source, and so are its statements."""

from __future__ import annotations

from tools.record.executed import markdown, merged, report, selection, summary

ORACLE = '''"""An oracle."""
def select_fp8_moe_backend(config):
    """Select."""
    if config.gated:
        return first(
            config,
        )
    for kernel in kernels(config):
        if kernel.is_supported_config(config):
            return kernel
    text = ", ".join([])
    raise ValueError(text)

def kernels(config):
    return [] if has_deep_gemm() else None

def has_deep_gemm():
    return False

def weights(config):
    return 1
'''
KERNEL = """class Kernel:
    def is_supported_config(self, config):
        try:
            return self._supports_shape(config)
        except ValueError:
            return False

    def _supports_shape(self, config):
        return True

    def join(self):
        return 1

class Base:
    def _supports_shape(self, config):
        raise NotImplementedError(config)

class FusedMoEConfig:
    @property
    def gated(self):
        return True

    @property
    def other(self):
        return False

def first(config):
    return None
"""
SOURCES = {"oracle.py": ORACLE, "kernel.py": KERNEL}


def names() -> list[str]:
    return [function.name for function in selection(SOURCES)]


def test_selection_is_what_select_functions_call() -> None:
    assert names() == [
        "Kernel.is_supported_config",
        "Kernel._supports_shape",
        "FusedMoEConfig.gated",
        "first",
        "select_fp8_moe_backend",
        "kernels",
    ]


def missed(executed: dict[str, list[int]]) -> dict[str, list[int]]:
    rows = report(selection(SOURCES), merged([executed]), "0.0.1")["functions"]
    return {row["function"]: row["missed"] for row in rows}


def test_a_statement_is_executed_where_one_of_its_lines_is() -> None:
    # Line 6 is in the call that begins in line 5.
    found = missed({"oracle.py": [4, 6, 8, 11], "kernel.py": [4, 9]})
    assert found["select_fp8_moe_backend"] == [9, 10, 12]
    assert found["Kernel.is_supported_config"] == [6]
    assert found["Kernel._supports_shape"] == []
    assert found["kernels"] == [15]


def test_the_parts_of_a_statement_are_statements_of_their_own() -> None:
    (select,) = [f for f in selection(SOURCES) if f.name.startswith("select")]
    assert [first for first, _ in select.statements] == [4, 5, 8, 9, 10, 11, 12]


def test_machines_add_up() -> None:
    lines = merged([{"oracle.py": [4]}, {"oracle.py": [8], "kernel.py": [4]}])
    assert lines == {"oracle.py": {4, 8}, "kernel.py": {4}}


def test_the_report_names_files_methods_and_lines() -> None:
    lines = merged([{"oracle.py": [4, 5], "kernel.py": [4, 9]}])
    kernels = [{"Kernel": {"supports": 2}}, {"Kernel": {"supports": 1, "refuses": 5}}]
    data = report(selection(SOURCES), lines, "0.0.1", kernels)
    assert summary(data) == ("executed 4 of 13 statements of selection (30.77 %), in 6 functions")
    text = markdown(data)
    assert "| oracle.py | 8 | 25.00 % | 6 |" in text
    assert "| _supports_shape | 1 | 100.00 % | 0 |" in text
    assert "| Kernel | 3 | 5 |" in text
    assert "- `oracle.py` select_fp8_moe_backend: 8, 9, 10, 11, 12" in text
    assert "Kernel._supports_shape:" not in text
