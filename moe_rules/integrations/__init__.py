"""Engines that decide by the tables, one package each."""
