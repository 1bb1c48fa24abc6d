"""`fv-lens harness`: tasks of lm-evaluation-harness with and without a vector."""
