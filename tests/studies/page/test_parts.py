"""Pieces of a page: named, escaped, and without anything to load."""

import json
import re

import pandas as pd
import plotly.graph_objects as go
import pytest

from fv_lens import plots
from fv_lens.studies.page import parts as page

from ...plots.made import HOSTILE, made_evaluation, made_sweep
from ..pages import Page


def test_a_section_has_its_heading_note_and_an_id_and_is_nothing_when_empty():
    drawn = page.section("Which heads, & why?", page.paragraph("a < -1"), "<b>", note="of 10 < 20")
    assert drawn == (
        '<section id="section-which-heads-why"><h2>Which heads, &amp; why?</h2><p class="note">of 10 &lt; 20</p>'
        "<p>a &lt; −1</p>&lt;b&gt;</section>"
    )
    assert page.section("Heads", "", "", note="a note") == ""


def test_a_figure_is_named_by_its_title_and_described_by_its_caption():
    made = plots.evaluation(made_evaluation(relation="antonym & <more>"))
    before = made.to_dict()
    drawn = page.figure("completion", made, "what it shows")
    tags = Page(drawn).tags
    image = next(parts for _, parts in tags if parts.get("role") == "img")
    assert image["aria-label"] == "Words completed right: antonym & <more>"
    assert [parts["id"] for tag, parts in tags if tag == "figcaption"] == [image["aria-describedby"]]
    assert made.to_dict() == before  # the figure itself keeps its size and colours


def test_a_figure_lets_the_page_show_through_but_keeps_a_background_that_means_something():
    def layout(figure):
        return json.loads(re.search(r'data-figure="a">(.*?)</script>', page.figure("a", figure, ""), re.S)[1])["layout"]

    assert layout(go.Figure())["paper_bgcolor"] == layout(go.Figure())["plot_bgcolor"] == page.CLEAR
    assert layout(go.Figure(layout_plot_bgcolor="#a3a3a3"))["plot_bgcolor"] == "#a3a3a3"


def test_a_table_can_be_reached_and_has_a_name():
    box = Page(page.table(["accuracy"], {"FV": [page.plain_cell("1")]}, "", name="All & <sundry>")).tags[0][1]
    assert box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"] == "All & <sundry>"
    assert Page(page.table(["accuracy", "loss"], {}, "")).tags[0][1]["aria-label"] == "Table of accuracy, loss"


def test_a_download_is_the_frame_as_csv(tmp_path):
    frame = pd.DataFrame({"word": [HOSTILE, "</script>", "<!-- é"], "value": [0.1, -2, None]})
    page.write_page(tmp_path / "page.html", "a title", ["<p>text</p>"], downloads={"a & b": frame})
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert HOSTILE not in text and "Download a & b.csv" in Page(text).text
    source = re.search(r'id="csv-0">(.*?)</script>', text, re.S)[1]
    assert json.loads(source) == frame.to_csv(index=False)
    page.write_page(tmp_path / "page.html", "a title", [])
    assert "Downloads" not in Page((tmp_path / "page.html").read_text(encoding="utf-8")).text


@pytest.mark.slow
def test_plotly_is_there_once_if_there_is_a_figure_at_all(tmp_path):
    drawn = [page.figure(name, plots.layer_sweep(made_sweep()), "") for name in ("a", "b")]
    for parts, times in ((drawn, 1), (["<p>none</p>"], 0)):
        page.write_page(tmp_path / "page.html", "a title", parts)
        text = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert len(re.findall(r"\* plotly\.js v\d", text)) == times


def test_the_page_forbids_itself_to_load_anything(tmp_path):
    page.write_page(tmp_path / "page.html", "a title", [])
    policy = next(
        parts["content"]
        for _, parts in Page((tmp_path / "page.html").read_text()).tags
        if "content" in parts and "http-equiv" in parts
    )
    assert "default-src 'none'" in policy and "http" not in policy
