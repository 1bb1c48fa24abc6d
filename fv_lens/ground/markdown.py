"""Tables and scores in GitHub's Markdown."""

from collections.abc import Sequence

import pandas as pd

from .scores import Score

MINUS = " \N{MINUS SIGN} "


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of strings."""
    frame = pd.DataFrame(body, columns=head, dtype=str)
    return frame.to_markdown(index=False, tablefmt="github", disable_numparse=True)


def score_text(score: Score | None, signed: bool = False, absent: str = "none") -> str:
    """A score and its interval; a difference has a sign, and is bold where its interval excludes zero."""
    if score is None:
        return absent
    value, interval = score.written("+" * signed)
    value = f"**{value}**" if signed and score.differs() else value
    return f"{value} {interval}" if score.known else value
