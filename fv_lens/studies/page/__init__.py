"""Parts that the pages of all commands share."""
