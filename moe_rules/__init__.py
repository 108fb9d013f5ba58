"""Which MoE kernel runs here, and why: rules as data, decisions that explain themselves."""
