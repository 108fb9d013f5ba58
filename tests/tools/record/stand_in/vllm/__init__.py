"""A stand-in for vLLM, with two oracles of two kernels: no vLLM is installed where this is tested.

It has what the recorder touches of a release and nothing else, under vLLM's names. What it decides
is its own.
"""

__version__ = "0.0.1"
