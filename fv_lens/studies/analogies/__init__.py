"""`fv-lens analogies`: a set of analogy questions, answered by every method."""
