"""Reference quantization in torch: what a scheme means, written for clarity, on any device."""
