"""The closed vocabulary: facts, their values, the layer, the quantization keys."""
