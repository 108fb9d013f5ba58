"""What of an engine's source the tables say again, and what of it another release changed."""
