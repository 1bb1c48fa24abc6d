"""Find heads, sum them into a function vector, choose where it acts, fine-tune it, insert it."""
