import enum


class MoEActivation(enum.Enum):
    SILU = "silu"
    RELU2_NO_MUL = "relu2_no_mul"
