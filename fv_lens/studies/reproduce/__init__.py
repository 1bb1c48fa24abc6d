"""`fv-lens reproduce`: many relations, every vector and control."""
