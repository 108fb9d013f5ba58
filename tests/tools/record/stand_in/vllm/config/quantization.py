from types import SimpleNamespace as QuantSpec  # noqa: F401
from types import SimpleNamespace as QuantizationConfigArgs  # noqa: F401
