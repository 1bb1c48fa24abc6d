"""`fv-lens analogies`: a set of analogy questions, every way to answer them."""
