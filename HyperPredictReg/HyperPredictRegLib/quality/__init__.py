"""How good a registration is: folding, overlap, distances, inverse consistency."""
