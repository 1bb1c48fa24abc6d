"""Whole experiments, one folder a command, and the command line."""
