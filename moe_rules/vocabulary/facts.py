"""The closed vocabulary: every fact a rule may test, with its type, domain and meaning.

A deployment is a flat mapping from fact name to value. Layer and parallel facts have the field
names of :mod:`moe_rules.vocabulary.layer` (which are vLLM's), switches
(:mod:`moe_rules.vocabulary.switches`) those of vLLM's environment variables. A fact that is missing
from the mapping is *unknown*; ``None`` is a value, written ``none``. What follows from other facts
(``all2all``, ``activation_format``, ...) is defined in ``rules/vocabulary.yaml``.
"""

from __future__ import annotations

from moe_rules.vocabulary.fact_values import Fact, FactValue
from moe_rules.vocabulary.switches import SWITCH_FACTS, SWITCHES
from moe_rules.vocabulary.table_names import PLATFORMS

ACTIVATIONS = (
    "silu",
    "gelu",
    "gelu_tanh",
    "relu2",
    "swigluoai",
    "situ",
    "swigluoai_uninterleave",
    "swiglustep",
    "silu_no_mul",
    "gelu_no_mul",
    "gelu_tanh_no_mul",
    "relu2_no_mul",
)
"""Activation names (vLLM's ``MoEActivation`` values). ``*_no_mul`` have no gate."""

ROUTING_METHODS = (
    "Default",
    "Renormalize",
    "DeepSeekV3",
    "Llama4",
    "RenormalizeNaive",
    "TopK",
    "SigmoidRenorm",
    "MiniMax2",
    "Sigmoid",
    "Unspecified",
    "DeepseekV4",
    "Custom",
    "Simulated",
)
"""Routing method names (vLLM's ``RoutingMethodType`` members)."""

DTYPES = ("bf16", "fp16", "fp32")

# vLLM's, and all_to_all_single and symmetric_memory, which are moe_kernels' own.
ALL2ALL_BACKENDS = (
    "all_to_all_single",
    "allgather_reducescatter",
    "deepep_high_throughput",
    "deepep_low_latency",
    "deepep_v2",
    "flashinfer_all2allv",
    "flashinfer_nvlink_one_sided",
    "flashinfer_nvlink_two_sided",
    "moonep",
    "mori_high_throughput",
    "mori_low_latency",
    "naive",
    "nixl_ep",
    "passthrough",
    "pplx",
    "symmetric_memory",
)

_PLATFORM = (
    Fact(
        "device",
        "platform",
        "enum",
        "Kind of device; names the platform file that applies.",
        PLATFORMS,
    ),
    Fact("device_name", "platform", "string", "Product name of the device.", nullable=True),
    Fact(
        "compute_capability",
        "platform",
        "version",
        "NVIDIA compute capability; other vendors have none.",
        nullable=True,
    ),
    Fact(
        "gfx",
        "platform",
        "string",
        "AMD GPU target; other vendors have none.",
        (
            "gfx908", "gfx90a", "gfx942", "gfx950", "gfx1030",
            "gfx1100", "gfx1151", "gfx1200", "gfx1201", "gfx1250",
        ),
        nullable=True,
    ),
    Fact(
        "cpu_arch",
        "platform",
        "enum",
        "Architecture of a CPU platform.",
        ("x86", "arm", "powerpc", "s390x", "riscv"),
        nullable=True,
    ),
    Fact("os", "platform", "enum", "Operating system.", ("linux", "darwin"), nullable=True),
    Fact("zen", "platform", "bool", "vLLM's Zen CPU platform (AMD, with zentorch) is in use."),
    Fact("amx_tile", "platform", "bool", "The CPU has AMX tiles that the kernel may use."),
    Fact("amx_fp8", "platform", "bool", "The CPU has AMX-FP8."),
)  # fmt: skip

_SOFTWARE = tuple(
    Fact(name, "software", "bool", meaning)
    for name, meaning in {
        "flashinfer": "FlashInfer is installed.",
        "flashinfer_trtllm_fused_moe": "FlashInfer has the TensorRT-LLM fused MoE entry points.",
        "flashinfer_cutlass_fused_moe": "FlashInfer has the CUTLASS fused MoE.",
        "flashinfer_cutedsl_grouped_gemm": "FlashInfer has the masked CuTe-DSL grouped GEMM.",
        "flashinfer_cutedsl_moe_nvfp4": "FlashInfer has the CuTe-DSL NVFP4 MoE.",
        "flashinfer_b12x_moe": "FlashInfer has the b12x MoE for consumer Blackwell.",
        "flashinfer_situ_activation": "FlashInfer's kernels know the SiTU activation.",
        "deep_gemm": "DeepGEMM is installed (vLLM's vendored copy counts).",
        "triton_kernels": "OpenAI's triton_kernels is installed (vLLM's vendored copy counts).",
        "humming": "humming-kernels is installed.",
        "hpc": "The hpc kernel package is installed.",
        "quark": "amd-quark is installed.",
        "b12x_fused_moe": "The b12x package with its fused MoE is installed.",
        "b12x_is_supported": "b12x says that it supports this device.",
        "cutlass_group_gemm_op": "vLLM's CUTLASS grouped GEMM operator is compiled in.",
        "mxfp4_experts_quant_op": "vLLM's MXFP4 expert quantization operator is compiled in.",
        "aiter": "AMD's AITER is installed.",
        "aiter_fused_moe_gate_mode": "AITER's fused_moe takes gate_mode.",
        "aiter_fused_moe_quant_dtype_a": "AITER's fused_moe takes quant_dtype_a.",
        "rdna3_moe_op": "vLLM's RDNA3 MoE GPTQ operator is compiled in.",
        "cpu_fused_moe_int8_op": "vLLM's CPU int8 fused MoE operator is compiled in.",
        "zentorch_fused_moe_op": "zentorch's fused MoE operator is there.",
        "zentorch_woq_repack_op": "zentorch's weight repacking operator is there.",
        "torch_dyn_quant_4bit_ops": "torch has the dynamic 4-bit matmul operators.",
    }.items()
)

_LAYER = (
    Fact("num_experts", "layer", "int", "Experts of the layer, over all ranks.", least=1),
    Fact("experts_per_token", "layer", "int", "Experts each token is routed to (top-k).", least=1),
    Fact("hidden_dim", "layer", "int", "Hidden size.", least=1),
    Fact(
        "intermediate_size",
        "layer",
        "int",
        "Intermediate size of one expert, over all ranks.",
        least=1,
    ),
    Fact(
        "intermediate_size_per_partition",
        "layer",
        "int",
        "Intermediate size held by one rank.",
        least=1,
    ),
    Fact(
        "intermediate_size_per_partition_unpadded",
        "layer",
        "int",
        "Intermediate size held by one rank before padding.",
        least=1,
    ),
    Fact("activation", "layer", "enum", "Activation of the expert MLP.", ACTIVATIONS),
    Fact("routing_method", "layer", "enum", "How the router picks experts.", ROUTING_METHODS),
    Fact("in_dtype", "layer", "enum", "dtype of the hidden states.", DTYPES),
    Fact("router_logits_dtype", "layer", "enum", "dtype of the router logits.", DTYPES),
    Fact("has_bias", "layer", "bool", "Experts have biases."),
    Fact("is_lora_enabled", "layer", "bool", "LoRA adapters may be applied to the experts."),
    Fact("has_hash_routing", "layer", "bool", "Experts come from a hash table, not from logits."),
    Fact(
        "require_decomposed_backend",
        "layer",
        "bool",
        "Routes are adjusted between routing and expert execution.",
    ),
    Fact("skip_final_all_reduce", "layer", "bool", "The caller does the final all-reduce itself."),
    Fact("swiglu_limit", "layer", "float", "Clamp of SwiGLU's inputs.", nullable=True),
    Fact("swiglu_alpha", "layer", "float", "Sigmoid slope of SwiGLU.", nullable=True),
    Fact("swiglu_beta", "layer", "float", "Offset added to SwiGLU's up input.", nullable=True),
    Fact("activation_situ_beta", "layer", "float", "Beta of SiTU.", nullable=True),
    Fact("activation_situ_linear_beta", "layer", "float", "Linear beta of SiTU.", nullable=True),
)

_PARALLEL = (
    Fact(
        "tp_size", "parallel", "int", "Tensor-parallel size inside the layer (1 with EP).", least=1
    ),
    Fact("pcp_size", "parallel", "int", "Prefill-context-parallel size.", least=1),
    Fact("dp_size", "parallel", "int", "Data-parallel size.", least=1),
    Fact("ep_size", "parallel", "int", "Ranks that share the experts (1 without EP).", least=1),
    Fact("sp_size", "parallel", "int", "Sequence-parallel size.", least=1),
    Fact("use_ep", "parallel", "bool", "Experts are spread over ranks (expert parallelism)."),
    Fact(
        "all2all_backend",
        "parallel",
        "string",
        "Configured exchange of tokens; see all2all for the one in effect.",
        ALL2ALL_BACKENDS,
    ),
    Fact("enable_eplb", "parallel", "bool", "Expert load balancing is on for the layer."),
)

_QUANTIZATION = (
    Fact("weight_key", "quantization", "quant_key", "How weights are quantized.", nullable=True),
    Fact(
        "activation_key",
        "quantization",
        "quant_key",
        "How activations are quantized.",
        nullable=True,
    ),
    Fact(
        "allow_vllm_cutlass",
        "quantization",
        "bool",
        "The quantization method allows vLLM's CUTLASS kernels (fp8).",
    ),
    Fact("may_have_zp", "quantization", "bool", "Weights may come with zero points (int_wna16)."),
    Fact("may_have_bias", "quantization", "bool", "Experts may come with biases (int_wna16)."),
    Fact(
        "allow_tile_padding",
        "quantization",
        "bool",
        "Weights may be padded to a kernel's tiles (int_wna16).",
    ),
    Fact(
        "checkpoint_format",
        "quantization",
        "enum",
        "Weight layout of an int_wna16 checkpoint.",
        ("compressed_tensors", "auto_awq", "auto_gptq", "moe_wna16", "quark"),
        nullable=True,
    ),
    Fact(
        "num_bits", "quantization", "int", "Bits of a weight (int_wna16).", nullable=True, least=1
    ),
    Fact(
        "group_size",
        "quantization",
        "int",
        "Weights that share a scale (int_wna16); -1 or none: a whole channel.",
        nullable=True,
        least=-1,
    ),
    Fact("symmetric", "quantization", "bool", "Weights have no zero points.", nullable=True),
    Fact(
        "strategy",
        "quantization",
        "string",
        "compressed-tensors: how scales are shared.",
        ("channel", "group", "tensor", "block"),
        nullable=True,
    ),
    Fact(
        "actorder",
        "quantization",
        "string",
        "compressed-tensors: activation ordering.",
        ("group", "weight", "static", "dynamic"),
        nullable=True,
    ),
    Fact("zero_point", "quantization", "bool", "AWQ: weights have zero points.", nullable=True),
    Fact("desc_act", "quantization", "bool", "GPTQ: activation ordering.", nullable=True),
)

_REQUEST = (
    Fact("moe_backend", "request", "string", 'Backend asked for by name, or "auto".'),
    Fact(
        "model_role",
        "request",
        "enum",
        "What the model is: the target, or the draft of speculative decoding; none: no request "
        "by role is asked.",
        ("target", "draft"),
        nullable=True,
    ),
    Fact(
        "num_tokens",
        "request",
        "int",
        "Tokens of one forward pass; not known when a kernel is selected.",
        per_call=True,
        least=0,
    ),
    Fact("model_type", "request", "string", "model_type of the text config.", nullable=True),
    Fact(
        "moe_activation_override",
        "request",
        "quant_key",
        "The user's quantization_config.moe.activation.",
        nullable=True,
    ),
    Fact("enable_dbo", "request", "bool", "Dual batch overlap is on."),
    Fact("engine_enable_eplb", "request", "bool", "Expert load balancing is on in the engine."),
    Fact("weight_transfer", "request", "bool", "Weights may be transferred at run time."),
)

FACTS: dict[str, Fact] = {
    fact.name: fact
    for fact in (
        *_PLATFORM,
        *_SOFTWARE,
        *_LAYER,
        *_PARALLEL,
        *_QUANTIZATION,
        *_REQUEST,
        *SWITCH_FACTS,
    )
}
"""Every fact that is supplied, by name. Derived facts are in ``rules/vocabulary.yaml``."""

REQUEST_DEFAULTS: dict[str, FactValue] = {
    "model_role": "target",
    "model_type": None,
    "moe_activation_override": None,
    "enable_dbo": False,
    "engine_enable_eplb": False,
    "weight_transfer": False,
    **dict.fromkeys(SWITCHES),
}
"""What holds where a request says nothing: the target model, switches unset, no override."""

PER_CALL = frozenset(fact.name for fact in FACTS.values() if fact.per_call)
"""Facts that differ from call to call of a selected kernel."""
