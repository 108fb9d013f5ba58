def has_deep_gemm():
    raise AssertionError("the simulation answers in place of this")


def has_quark():
    raise AssertionError("the simulation answers in place of this")
