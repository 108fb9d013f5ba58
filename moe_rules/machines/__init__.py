"""Machines: detected, recorded or named, and the facts that they settle."""
