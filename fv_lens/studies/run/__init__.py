"""`fv-lens run`: one relation, from head map to tuned vector."""
