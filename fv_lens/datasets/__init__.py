"""Words: relations, prompts, analogy questions, human ratings."""
