"""Mix a library of function vectors into composites and solve A:B :: C:?."""
