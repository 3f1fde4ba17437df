"""Deformable image registration that says what it did: align, register, measure, report.

Importable without Slicer, Qt or a GPU. Nothing is imported here on purpose: each room is imported by those who use it,
so that Slicer's start and ``hyperpredictreg --help`` stay quick.
"""

__version__ = "0.1.0"
