"""`fv-lens reproduce --dry-run`: what a study takes, without running it."""
