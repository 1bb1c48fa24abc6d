"""Vectors of other engines: each written and read by the format that its own loader takes."""
