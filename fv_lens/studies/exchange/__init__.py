"""`fv-lens export` and `fv-lens import`: saved vectors to other engines and from them."""
