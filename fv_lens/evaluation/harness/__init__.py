"""Patched models in EleutherAI's lm-evaluation-harness: as its model class, with tasks of bundled words."""
