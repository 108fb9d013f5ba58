"""The evaluator: from facts and rules to a decision that explains itself."""
