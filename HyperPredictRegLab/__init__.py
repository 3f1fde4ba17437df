"""The laboratory beside the product: what makes and judges a predictor before it ships. Not installed into Slicer."""
