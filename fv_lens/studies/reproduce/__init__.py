"""`fv-lens reproduce` and `fv-lens table`: many relations, every vector and control."""
