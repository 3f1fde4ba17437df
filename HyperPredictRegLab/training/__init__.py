"""From the tables of a sweep to a bundle that the product can load."""
