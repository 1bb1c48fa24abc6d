"""Load a model, and the verbs through which all else talks to it: the only room that knows TransformerLens."""
