"""Image pairs with a known truth, made from label maps."""
