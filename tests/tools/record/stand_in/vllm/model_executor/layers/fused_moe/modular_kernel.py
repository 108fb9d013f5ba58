import enum


class FusedMoEActivationFormat(enum.Enum):
    Standard = "standard"
    BatchedExperts = "batched"


class FusedMoEExperts:
    @staticmethod
    def is_supported_config(cls, moe_config, weight_key, activation_key, activation_format):
        if not cls._supports_shape(moe_config.hidden_dim):
            return False, f"hidden dim {moe_config.hidden_dim}"
        if activation_format != cls.activation_format():
            return False, f"format {activation_format.value}"
        return True, None

    @staticmethod
    def _supports_shape(hidden_dim):
        return True
