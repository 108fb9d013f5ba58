import enum


class UnquantizedMoeBackend(enum.Enum):
    NONE = "NONE"


def backend_to_kernel_cls(backend):
    raise ValueError("no kernel")


def select_unquantized_moe_backend(moe_config):
    return UnquantizedMoeBackend.NONE, None
