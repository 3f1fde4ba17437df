"""The commands of the laboratory. The product finds this file by its entry point and thereby gets the commands."""

from HyperPredictRegLab.commands import evaluating, sweeping, synthesising, training

__all__ = ["evaluating", "sweeping", "synthesising", "training"]
