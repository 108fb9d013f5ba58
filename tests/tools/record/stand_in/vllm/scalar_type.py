from types import SimpleNamespace

scalar_types = SimpleNamespace()
