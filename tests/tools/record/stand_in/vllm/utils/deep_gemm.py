import functools

from vllm.utils.import_utils import has_deep_gemm


@functools.cache
def is_deep_gemm_supported():
    return has_deep_gemm()
