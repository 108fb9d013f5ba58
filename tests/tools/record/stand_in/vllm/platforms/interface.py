import enum


class CpuArchEnum(enum.Enum):
    X86 = 1
    ARM = 2


class PlatformEnum(enum.Enum):
    TPU = 1
    OOT = 2


class Platform:
    pass


class UnspecifiedPlatform(Platform):
    pass
