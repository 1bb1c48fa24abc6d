"""Pages as a reader meets them: tags, words, tables, and what can be saved."""

import io
import json
import re
from html.parser import HTMLParser

import pandas as pd

from ..plots.made import HOSTILE

WORST = f'</script>{HOSTILE}"&'  # would end a script element, open one, end an attribute, begin an entity


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.words, self.inside = [], [], None
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.words)).replace("\N{MINUS SIGN}", "-")

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.words.append(data)


def figures(text):
    return [parts["id"] for tag, parts in Page(text).tags if parts.get("class") == "plotly-graph-div"]


def words(text):
    return Page(text).text.replace("\N{NO-BREAK SPACE}", " ")


def short(text):
    return words(re.search(r'<section class="short">.*?</section>', text, re.S)[0])


def embedded(text: str) -> dict[str, object]:
    """The data inside of script elements, by what they are of; what no JSON reader takes fails."""

    def refused(constant):
        raise ValueError(f"{constant} is no JSON")

    found = re.findall(r'<script type="application/json" (?:id|data-figure)="(.*?)">(.*?)</script>', text, re.S)
    return {name: json.loads(source, parse_constant=refused) for name, source in found}


def downloads(text: str) -> dict[str, pd.DataFrame]:
    """File name -> what a click on its button saves."""
    buttons = [parts for _, parts in Page(text).tags if "data-csv" in parts]
    saved = embedded(text)
    return {
        parts["data-name"]: pd.read_csv(io.StringIO(saved[parts["data-csv"]]), keep_default_na=False, na_values=[""])
        for parts in buttons
    }


def assert_like_harmless(write, page_of) -> str:
    """The page of `page_of(WORST)` is that of harmless words, element by element, but for these words."""
    text, harmless = page_of(WORST), Page(page_of("harmless"))
    assert harmless.text.count("harmless") > 20
    assert Page(text).text == harmless.text.replace("harmless", WORST)
    tags = [(tag, {k: v and v.replace("harmless", WORST) for k, v in parts.items()}) for tag, parts in harmless.tags]

    def but_heights(tags):  # a longer name takes more lines of a figure
        return re.sub(r"height: \d+px", "height", str(tags))

    assert but_heights(Page(text).tags) == but_heights(tags)
    for name in figures(text):
        assert "&lt;script" in str(embedded(text)[name]) and "<script" not in str(embedded(text)[name])
    return text


def rows_of(text: str, name: str) -> list[tuple[str, list[str]]]:
    """Rows of the table that a screen reader calls `name`: their own names and cells, as text."""
    [table] = re.findall(f'aria-label="{re.escape(name)}">(<table.*?</table>)', text, re.S)
    cells = [re.findall("<t[hd].*?>(.*?)</t[hd]>", row, re.S) for row in re.findall("<tr>(.*?)</tr>", table, re.S)[1:]]
    return [
        (Page(first + "<p>").text.strip(), [words(cell + "<p>").strip() for cell in rest]) for first, *rest in cells
    ]
