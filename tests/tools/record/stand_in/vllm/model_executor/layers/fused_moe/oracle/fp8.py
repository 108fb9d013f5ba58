import enum
import os


class Fp8MoeBackend(enum.Enum):
    NONE = "NONE"
    DEEP = "DEEP"
    WIDE = "WIDE"


def backend_to_kernel_cls(backend):
    from vllm.model_executor.layers.fused_moe.kernels import DeepExperts, WideExperts

    if backend is Fp8MoeBackend.NONE:
        raise ValueError("no kernel")
    return [{Fp8MoeBackend.DEEP: DeepExperts, Fp8MoeBackend.WIDE: WideExperts}[backend]]


def _get_priority_backends():
    return [Fp8MoeBackend.DEEP, Fp8MoeBackend.WIDE]


def select_fp8_moe_backend(config, weight_key, activation_key, allow_vllm_cutlass=False):
    AVAILABLE_BACKENDS = _get_priority_backends()  # noqa: N806
    if os.environ.get("VLLM_USE_DEEP_GEMM") == "0":
        AVAILABLE_BACKENDS.remove(Fp8MoeBackend.DEEP)
    if config.moe_backend == "wide":
        requested_backend = Fp8MoeBackend.WIDE
        AVAILABLE_BACKENDS.sort(key=lambda backend: backend is not requested_backend)
    elif config.moe_backend != "auto":
        raise ValueError(f"no backend {config.moe_backend}")
    batched = config.moe_parallel_config.use_batched_activation_format
    from vllm.model_executor.layers.fused_moe.modular_kernel import FusedMoEActivationFormat

    activation_format = list(FusedMoEActivationFormat)[batched]
    for backend in AVAILABLE_BACKENDS:
        for kernel in backend_to_kernel_cls(backend):
            args = (kernel, config, weight_key, activation_key, activation_format)
            if kernel.is_supported_config(*args)[0]:
                return backend, kernel
    raise NotImplementedError("no backend serves")
