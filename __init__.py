"""Mutual Forcing: streaming audio-video character generation with one network in two modes (arXiv 2604.25819).

The repository root is this package. Imports go downward only: orchestration -> workers -> datasets -> model.
"""

__version__ = "0.1.0"
