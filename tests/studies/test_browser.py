"""The page in a browser: it runs alone, can be read and operated by everyone, and lets nothing of the data run."""

import csv
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from fv_lens.engine.batches import PromptBatch
from fv_lens.ground import scores
from fv_lens.plots.style import DARK, INK
from fv_lens.studies.run.findings import Findings
from fv_lens.studies.run.page import write_report
from fv_lens.vectors.effects import HeadEffects

from ..plots.made import HOSTILE, made_effects, made_evaluation, made_sweep

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
AXE = Path(os.environ.get("FV_LENS_AXE") or Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js")
LAYERS, HEADS = 3, 4
ASKED = (HOSTILE, '"&', "hot", "old", "</script>", "<!--")
CHOSEN = ((0, 0), (2, 1))
HEAD_WORDS = {(layer, head): (HOSTILE, ' "&', " white") for layer in range(LAYERS) for head in range(HEADS)}


def made_report(path) -> HeadEffects:
    """Writes the page, and returns the effects that it shows."""
    n, row = len(ASKED), torch.ones(len(ASKED), 2, dtype=torch.long)
    asked = PromptBatch(row, row, row[:, 0], (((1,),),) * n, ("a prompt",) * n, ASKED)
    effects = replace(made_effects(n, LAYERS, HEADS, HOSTILE), batch=asked)
    grid = made_sweep(heads=(2, 3))
    words = {"relation": "antonym", "vector": "FV", "token": [" white", HOSTILE], "probability": [0.5, 0.1]}
    findings = Findings(
        effects, HEAD_WORDS, grid, replace(grid.best(), heads=CHOSEN), made_evaluation(controls=(HOSTILE, "10-shot")),
        words=pd.DataFrame(words | {"is_name": [False, True]}),
    )  # fmt: skip
    write_report(path, findings, title=f"a title {HOSTILE}", summary={"threads": 2}, command=HOSTILE)
    return effects


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    return path, made_report(path)


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def visit(browser, written):
    """Opens the page; whatever went wrong by the end of the test fails it."""
    opened, wrong, contexts = [], [], []

    def visit(width=900, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append("a script of the data ran"), dialog.dismiss()))
        page.on("request", lambda request: opened.append(request.url))
        page.goto(written[0].as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not wrong
    assert all(url.startswith(("data:", "blob:", written[0].as_uri())) for url in opened)


def cell(page, layer, head):
    return page.locator(f'[role=gridcell][aria-label^="layer {layer}, head {head}:"]')


def focused(page):
    return page.evaluate("document.activeElement.getAttribute('aria-label')")


def colour(locator):
    return locator.evaluate("element => getComputedStyle(element).backgroundColor")


def names(page):
    return page.eval_on_selector_all("[role=gridcell]", "cells => cells.map(cell => cell.getAttribute('aria-label'))")


def test_a_head_opens_by_mouse_to_both_means_its_prompts_and_its_words_and_closes(visit, written):
    page, effects = visit(), written[1]
    cell(page, 2, 1).click()
    panel = page.locator(".panel")
    assert panel.locator("h3").inner_text() == "Layer 2, head 1, chosen"
    for values, places in ((effects.values, 5), (effects.log_prob_values, 4)):
        low, high = scores.interval(values.numpy())
        shown = f"{values.mean(0)[2, 1]:+.{places}f} [{low[2, 1]:.{places}f}, {high[2, 1]:.{places}f}]"
        assert shown.replace("-", "\N{MINUS SIGN}") in panel.inner_text()
    titles = panel.locator("svg title").all_text_contents()
    told = [f"{word}: {value:+.3g}" for word, value in zip(ASKED, effects.values[:, 2, 1].tolist())]
    assert [title.replace("\N{MINUS SIGN}", "-") for title in titles] == told
    assert panel.locator(".promoted code").all_text_contents()[0] == f'"{HOSTILE}"'
    panel.get_by_role("button", name="Close").click()
    assert panel.locator("h3").count() == 0 and focused(page).startswith("layer 2, head 1:")


def test_keys_move_within_the_map_and_open_and_close_a_head(visit):
    page = visit()
    assert page.locator('[role=gridcell][tabindex="0"]').count() == 1
    cell(page, 0, 0).focus()
    for key, at in (
        ("ArrowUp", (1, 0)), ("ArrowRight", (1, 1)), ("ArrowDown", (0, 1)), ("ArrowDown", (0, 1)), ("End", (0, 3)),
        ("ArrowRight", (0, 3)), ("Home", (0, 0)), ("ArrowLeft", (0, 0)), ("ArrowUp", (1, 0)),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert focused(page).startswith(f"layer {at[0]}, head {at[1]}:"), key
    assert page.locator('[role=gridcell][tabindex="0"]').count() == 1
    for key in ("Enter", " "):
        page.keyboard.press(key)
        assert page.locator(".panel h3").inner_text() == "Layer 1, head 0"
        assert page.evaluate("document.activeElement.className").startswith("panel")
        page.keyboard.press("Escape")
        assert page.locator(".panel h3").count() == 0 and focused(page).startswith("layer 1, head 0:")


def test_the_switch_recolours_and_renames_every_head_and_goes_back(visit, written):
    page, effects = visit(), written[1]
    before, unit = names(page), page.locator(".scale .unit")
    page.get_by_label("log-probability").check()
    assert unit.inner_text() == "change in log-probability (nats)"
    after = names(page)
    assert [name.split(":")[0] for name in after] == [name.split(":")[0] for name in before]
    assert f"{effects.log_prob_values.mean(0)[2, 0]:+.4f}".replace("-", "\N{MINUS SIGN}") in after[0]
    page.get_by_label("probability", exact=True).check()
    assert names(page) == before


def test_the_switch_colours_by_the_measure_that_it_names(browser, tmp_path):
    effects = made_effects(4, 2, 2)
    findings = Findings(replace(effects, log_prob_values=-effects.values))
    write_report(tmp_path / "page.html", findings, title="t", summary={})
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    strongest = page.locator('[role=gridcell][tabindex="0"]')
    seen = {colour(strongest)}
    page.get_by_label("log-probability").check()
    seen.add(colour(strongest))
    assert seen == {"rgb(110, 42, 4)", "rgb(8, 48, 107)"}  # the two ends of the scale
    page.close()


def test_nothing_of_the_data_is_markup(visit):
    page = visit()
    cell(page, 0, 0).click()
    assert page.title() == f"a title {HOSTILE}"
    page.locator(".panel summary").click()
    items = page.locator(".panel li").all_inner_texts()
    assert all(any(item.startswith(f"{word}: ") for item in items) for word in ASKED)
    assert HOSTILE in page.locator(".heads > .note").first.inner_text()
    assert page.evaluate("[...document.scripts].every(script => !script.textContent.startsWith('alert'))")


@pytest.mark.parametrize("width", [390, 900, 1100, 1600])
def test_the_page_never_scrolls_sideways(visit, width):
    page = visit(width)
    cell(page, 2, 1).click()
    page.locator(".panel summary").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [1100, 1600])
def test_a_wide_page_has_the_opened_head_beside_the_map_and_figures_two_abreast(visit, width):
    page = visit(width)
    cell(page, 2, 1).click()
    grid, panel = page.locator(".map").bounding_box(), page.locator(".panel").bounding_box()
    assert panel["x"] >= grid["x"] + grid["width"] and panel["y"] < grid["y"] + grid["height"]
    first, second = (page.locator(f"figure:has(#{name})").bounding_box() for name in ("layers", "completion"))
    assert second["x"] >= first["x"] + first["width"] and abs(first["y"] - second["y"]) < 2
    main = page.locator("main").bounding_box()
    assert main["width"] > 0.75 * width


def test_a_narrow_page_has_one_figure_below_the_other(visit):
    page = visit(390)
    first, second = (page.locator(f"figure:has(#{name})").bounding_box() for name in ("layers", "completion"))
    assert second["y"] >= first["y"] + first["height"] and first["width"] > 0.85 * 390


def test_the_theme_is_the_systems_until_it_is_chosen_and_figures_follow(visit):
    page = visit(scheme="dark")
    button, text = page.get_by_role("button", name="Dark theme"), "#completion .ytick text"

    def seen():
        fill = page.locator(text).first.evaluate("element => getComputedStyle(element).fill")
        return button.get_attribute("aria-pressed"), colour(page.locator("body")), fill

    def rgb(colour):
        return f"rgb({', '.join(map(str, bytes.fromhex(colour[1:])))})"

    dark, light = (
        ("true", rgb(DARK["#ffffff"]), rgb(DARK[INK])),
        ("false", "rgb(255, 255, 255)", rgb(INK)),
    )
    assert seen() == dark
    button.click()
    assert seen() == light
    page.emulate_media(color_scheme="light")
    button.press("Enter")
    assert seen() == dark
    assert "white" in page.locator("#words").inner_text()  # a word, and no colour


def test_paper_is_light_and_wide_enough_and_shows_what_is_folded(visit):
    page = visit(1000, "dark")
    cell(page, 2, 1).click()
    page.evaluate("""addEventListener("beforeprint", () => {
        const graph = document.querySelector("#completion");
        printed = [document.documentElement.dataset.theme, graph._fullLayout.width <= 700,
            [...document.querySelectorAll("details")].every(details => details.open)];
    })""")
    page.pdf(format="A4")
    assert page.evaluate("printed") == ["light", True, True]
    page.evaluate("""new Promise(done => {
        const wide = () => document.querySelector("#completion")._fullLayout.width > 700;
        const look = () => wide() ? done() : setTimeout(look, 50);
        look();
    })""")
    assert page.locator("details[open]").count() == 0
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.emulate_media(media="print")
    assert not page.locator("button:visible").count() and not page.locator("#contents").is_visible()


def test_the_contents_lead_to_every_heading(visit):
    page = visit()
    links = page.locator("#contents a")
    assert links.all_inner_texts() == page.locator("main h2").all_inner_texts()
    links.last.click()
    assert page.evaluate(
        "document.querySelector('main section:last-of-type h2').getBoundingClientRect().top < innerHeight"
    )
    assert (
        page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size")
        == page.locator("[id]").count()
    )


def test_a_download_has_the_content_of_its_table(visit, written):
    page = visit()
    with page.expect_download() as caught:
        page.get_by_role("button", name="Download heads.csv").click()
    assert caught.value.suggested_filename == "heads.csv"
    rows = list(csv.DictReader(io.StringIO(Path(caught.value.path()).read_text(encoding="utf-8"))))
    expected = written[1].to_frame()
    assert list(rows[0]) == list(expected) and len(rows) == LAYERS * HEADS
    assert [float(row["effect"]) for row in rows] == pytest.approx(expected.effect.tolist())


def test_without_scripts_the_map_is_there_with_its_colours_and_names(visit, written):
    page = visit(java_script_enabled=False)
    cells = page.locator("[role=gridcell]")
    assert cells.count() == LAYERS * HEADS and cells.first.is_visible()
    assert not page.get_by_role("radio").count() and not page.get_by_role("button").count()
    assert cell(page, 2, 1).get_attribute("aria-label").endswith("chosen")


@pytest.mark.skipif(not AXE.is_file(), reason=f"axe-core is not at {AXE}; npm install axe-core, or set FV_LENS_AXE")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_barrier(visit, scheme):
    page = visit(scheme=scheme)
    cell(page, 2, 1).click()
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    serious = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    assert not [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in serious]
