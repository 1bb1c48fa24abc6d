"""Other forms to ask for a word in than the default template's: short lists, and a sentence for each relation."""

from ..ground.errors import InputError
from .instructions import sentences
from .prompts import PromptTemplate

# With the default template, so that a vector tuned in one of these has as many others.
TEMPLATES = {
    "Q and A": PromptTemplate(),
    "question and answer": PromptTemplate("Question: {word}\nAnswer:"),
    "input and output": PromptTemplate("Input: {word}\nOutput:"),
    "arrow": PromptTemplate("{word} ->", separator="\n"),
    "colon": PromptTemplate("{word}:", separator="\n"),
    "equals": PromptTemplate("{word} =", separator="\n"),
}


def sentence_template(relation: str, sentence: str | None = None) -> PromptTemplate:
    """A sentence that goes on with the answer and ends there, "The opposite of big is small.", one on a line.

    Args:
        relation: the name of a bundled relation, which has a sentence.
        sentence: its beginning, with `{word}` in it, for another relation or instead of the bundled one.

    Raises:
        InputError: no sentence is known; one without `{word}`.

    Example:
        >>> sentence_template("antonym").prompt("big", [("hot", "cold")])
        'The opposite of hot is cold.\\nThe opposite of big is'
    """
    beginning = sentences().get(relation) if sentence is None else sentence
    if beginning is None:
        raise InputError(f"no sentence is known for {relation!r}; pass sentence='The opposite of {{word}} is', say.")
    return PromptTemplate(beginning, " {answer}.", "\n")
