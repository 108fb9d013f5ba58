from vllm.model_executor.layers.fused_moe.modular_kernel import (
    FusedMoEActivationFormat,
    FusedMoEExperts,
)
from vllm.utils.deep_gemm import is_deep_gemm_supported


class DeepExperts(FusedMoEExperts):
    @staticmethod
    def activation_format():
        return FusedMoEActivationFormat.Standard

    @staticmethod
    def is_supported_config(cls, *args):
        if not is_deep_gemm_supported():
            return False, "no DeepGEMM"
        return FusedMoEExperts.is_supported_config(cls, *args)


class WideExperts(FusedMoEExperts):
    @staticmethod
    def activation_format():
        return FusedMoEActivationFormat.Standard

    @staticmethod
    def _supports_shape(hidden_dim):
        if hidden_dim == 64:
            raise RuntimeError("asked about 64")
        return hidden_dim >= 1024
