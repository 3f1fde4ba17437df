"""Seeded multi-resolution rigid, similarity and affine alignment with SimpleITK, its trace and its stability."""

from HyperPredictRegLib.alignment.align import Alignment, align, foreground_points
from HyperPredictRegLib.alignment.likeness import Likeness
from HyperPredictRegLib.alignment.settings import AlignmentSettings
from HyperPredictRegLib.alignment.stability import Stability, stability
from HyperPredictRegLib.alignment.stages import matrix_of

__all__ = ["Alignment", "AlignmentSettings", "Likeness", "Stability", "align", "foreground_points", "matrix_of", "stability"]
