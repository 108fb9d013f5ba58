"""The routing method that a layer advertises to its kernels.

Source: vLLM's ``get_routing_method_type`` (``fused_moe/config.py``) and the choice of a router in
``fused_moe/router/router_factory.py``.
"""

from __future__ import annotations


def routing_method(
    scoring: str, *, renormalize: bool, correction_bias: bool, groups: int | None
) -> str:
    """The method's name in ``ROUTING_METHODS``.

    ``groups`` counts the expert groups of a grouped router, None for any other. The router that a
    single group degenerates to never changes the method: vLLM keeps the grouped one where it would.
    """
    if scoring == "sqrtsoftplus":
        return "DeepseekV4" if renormalize else "Unspecified"
    if correction_bias:
        if scoring != "sigmoid" or not renormalize:
            return "Unspecified"
        return "DeepSeekV3" if (groups or 0) > 0 else "MiniMax2"
    if scoring == "sigmoid":
        return "SigmoidRenorm" if renormalize else "Sigmoid"
    if scoring == "softmax":
        return "RenormalizeNaive" if renormalize else "Default"
    return "Unspecified"
