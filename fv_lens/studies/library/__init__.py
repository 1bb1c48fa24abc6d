"""`fv-lens library`: a library of vectors looked at, measured, drawn on a page, saved and shared."""
