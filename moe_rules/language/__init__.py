"""The rule language: reading, checking and resolving rule files."""
