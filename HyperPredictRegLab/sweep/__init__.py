"""Registrations of many pairs over many settings: which, with what, and what came out, resumable."""
