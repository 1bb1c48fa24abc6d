"""What is drawn in a figure."""

import numpy as np


def spans(trace):
    """x of each point, with the ends of its error bar."""
    return np.stack([trace.x, trace.x - trace.error_x.arrayminus, trace.x + trace.error_x.array], 1)


def traces(figure):
    return {trace.name: trace for trace in figure.data if trace.name}


def drawn_texts(figure):
    return str(figure.to_dict())
