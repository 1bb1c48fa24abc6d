"""What the pages of all commands are made of."""
