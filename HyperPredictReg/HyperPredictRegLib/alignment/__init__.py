"""Seeded multi-resolution rigid, similarity and affine alignment with SimpleITK, its trace and its stability."""

from HyperPredictRegLib.alignment.align import Alignment, align, foreground_points
from HyperPredictRegLib.alignment.frame import AlignmentSettings
from HyperPredictRegLib.alignment.stability import Stability, stability
from HyperPredictRegLib.quality.likeness import Likeness

__all__ = ["Alignment", "AlignmentSettings", "Likeness", "Stability", "align", "foreground_points", "stability"]
