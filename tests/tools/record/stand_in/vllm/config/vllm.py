_current_vllm_config = None
