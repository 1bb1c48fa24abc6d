"""One prompt, many edits at its last token, exact."""
