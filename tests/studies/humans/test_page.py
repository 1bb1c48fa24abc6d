"""The page of vectors against people tells each agreement with its interval, and calls shown only what is."""

import re

import numpy as np
import pandas as pd
import pytest

from fv_lens.ground.errors import InputError
from fv_lens.ground.scores import Score
from fv_lens.studies.humans.page import write_human_report

from ...plots.made import made_matrix, made_points
from ..pages import WORST, Page, assert_like_harmless, downloads, figures, rows_of, short, words

NAMES = ["1a taxonomic", "2c part-whole", '4b contrast, "plain"', "5a cause"]
COLUMNS = ["measure", "vectors", "value", "low", "high", "p", "n"]
RELATIONS, CROSSED, TYPICALITY = "relations", "relations, cross-fitted", "typicality, cross-fitted"
PAIRS = "pairs by composites, all, cross-fitted"


def made_frame(difference=(0.125, 0.0625, 0.25), one="FFV", other="FV", more=PAIRS) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (RELATIONS, one, 0.5, 0.25, 0.75, 0.00123, 10), (CROSSED, one, 0.4375, 0.125, 0.625, np.nan, 10),
            (TYPICALITY, one, 0.3125, 0.1875, 0.375, np.nan, 79), (more, one, 0.28, 0.22, 0.34, np.nan, 960),
            (RELATIONS, other, 0.375, -0.125, 0.625, 0.034, 10), (CROSSED, other, 0.34, 0.03, 0.56, np.nan, 10),
            (TYPICALITY, other, 0.19, 0.11, 0.27, np.nan, 79),
            (RELATIONS, f"{one} - {other}", *difference, np.nan, 10),
            (TYPICALITY, "no vector", 0.07, 0.01, 0.13, np.nan, 79),
        ],
        columns=COLUMNS,
    )  # fmt: skip


def named_points(names) -> pd.DataFrame:
    return made_points(len(names)).set_axis(list(names))


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fv_lens.studies.page.parts.get_plotlyjs", lambda: ""
    )  # four megabytes, which take long to parse

    def write(frame=None, **options):
        path = tmp_path / "humans.html"
        given = dict(
            title="a title", matrices={"people": made_matrix(NAMES), "FFV": made_matrix(NAMES, 1)},
            points=named_points(NAMES), categories=dict.fromkeys(NAMES, "a class"),
        )  # fmt: skip
        write_human_report(path, made_frame() if frame is None else frame, **given | options)
        return path.read_text(encoding="utf-8")

    return write


def test_every_part_has_its_place_and_the_page_loads_nothing(write):
    text = write(facts={"seed": 0})
    assert figures(text) == ["similarity", "map"]
    assert re.findall("<h2>(.*?)</h", text) == [
        "Agreement with people", "Relations together", "How it was made", "Downloads",
    ]  # fmt: skip
    assert not [tag for tag, parts in Page(text).tags if {"src", "href", "srcset", "data"} & parts.keys()]


def test_each_measure_is_told_for_every_kind_of_vectors_and_p_where_there_is_one(write):
    told = short(write())
    for measure, line in {
        RELATIONS: "FFV 0.50 [0.25, 0.75], p = 0.0012; FV 0.38 [-0.12, 0.62], p = 0.034",
        CROSSED: "FFV 0.44 [0.12, 0.62]; FV 0.34 [0.03, 0.56]",
        TYPICALITY: "FFV 0.31 [0.19, 0.38]; FV 0.19 [0.11, 0.27]; no vector 0.07 [0.01, 0.13]",
    }.items():
        assert f"Spearman's rho with people, {measure}: {line}." in told
    assert told.count("p = ") == 2 and "pairs by" not in told


def test_a_measure_that_is_not_there_is_not_told_of(write):
    frame = made_frame()
    told = short(write(frame[frame.measure == RELATIONS]))
    assert "with people, relations: FFV" in told and "cross-fitted" not in told and "typicality" not in told


@pytest.mark.slow
@pytest.mark.parametrize("ceiling", [None, 0.875])
def test_how_people_agree_is_told_only_where_it_is_known(write, ceiling):
    told = short(write(ceiling=ceiling))
    assert ("People agree with themselves to 0.88 (split halves)." in told) == (ceiling is not None)
    assert ("People agree" in told) == (ceiling is not None) and "None" not in told


@pytest.mark.slow
@pytest.mark.parametrize(
    "ends, said",
    [
        ((0.125, 0.0625, 0.25), "+0.12 [0.06, 0.25]"),
        ((-0.125, -0.25, -0.0625), "-0.12 [-0.25, -0.06]"),
        ((0.125, -0.0625, 0.25), "not shown (+0.12 [-0.06, 0.25])"),
        ((0.125, 0.0, 0.25), "not shown (+0.12 [0.00, 0.25])"),
        ((0.125, np.nan, np.nan), "not shown (+0.12 (no interval))"),
    ],
)
def test_a_difference_is_shown_only_where_its_interval_leaves_out_zero(write, ends, said):
    text = write(made_frame(ends))
    assert f"FFV - FV, relations: {said}." in short(text)
    cells = dict(rows_of(text, "Agreement with people"))[RELATIONS]
    assert ("not shown" in cells[2]) == ("not shown" in said) and words(text).count("FFV - FV") == 2


def test_the_table_has_every_measure_of_every_kind(write):
    frame = made_frame()
    kinds, found = list(dict.fromkeys(frame.vectors)), dict(rows_of(write(frame), "Agreement with people"))
    assert list(found) == [RELATIONS, CROSSED, TYPICALITY, PAIRS]
    told = {(line.measure, line.vectors): Score.of(line) for line in frame.itertuples()}
    for measure, cells in found.items():
        for kind, cell in zip(kinds, cells, strict=True):
            score = told.get((measure, kind))
            assert cell == ("" if score is None else score.signed if " - " in kind else str(score))


@pytest.mark.slow
@pytest.mark.parametrize("ends", [(np.nan, np.nan), (-np.inf, np.inf)])
def test_a_number_without_an_interval_says_so_and_nothing_infinite_is_told(write, ends):
    text = words(write(made_frame().assign(low=ends[0], high=ends[1], p=np.nan)))
    assert text.count("(no interval)") == 9 + 8 and "p = " not in text
    assert not re.search(r"\b(inf|infinity|nan)\b", text, re.I)


def test_saved_matrices_keep_the_names_of_their_rows(write):
    matrices, frame = {"people": made_matrix(NAMES), "FFV": made_matrix(NAMES, 1)}, made_frame()
    matrices["people"].iloc[0, 2] = np.nan
    saved = downloads(write(frame, matrices=matrices))
    assert list(saved) == ["results.csv", "people.csv", "FFV.csv"]
    pd.testing.assert_frame_equal(saved["results.csv"], frame)
    for title, matrix in matrices.items():
        assert list(saved[f"{title}.csv"].columns) == ["relation", *NAMES]
        pd.testing.assert_frame_equal(saved[f"{title}.csv"].set_index("relation"), matrix, check_names=False)


def test_nothing_of_the_data_is_markup(write):
    def page_of(word):
        names = [f"{word}{letter}" for letter in "abcd"]
        return write(
            made_frame(one=f"{word}I", other=f"{word}J", more=f"{word}M"), title=f"{word}T", ceiling=0.9,
            matrices={f"{word}P": made_matrix(names), f"{word}V": made_matrix(names, 1)}, points=named_points(names),
            categories={names[0]: f"{word}x", names[1]: f"{word}y"},
            facts={"command": f"{word} run", f"{word}K": {f"{word}N": f"{word}V"}, "more": f"{word}\nlines"},
        )  # fmt: skip

    text = assert_like_harmless(write, page_of)
    assert figures(text) == ["similarity", "map"]
    names = [f"{WORST}{letter}" for letter in "abcd"]
    assert downloads(text)[f"{WORST}P.csv"].relation.tolist() == names


@pytest.mark.slow
def test_the_page_is_the_same_when_written_again_and_a_missing_folder_is_named(write, tmp_path):
    assert write() == write()
    with pytest.raises(InputError, match="missing"):
        write_human_report(
            tmp_path / "missing" / "h.html", made_frame(), title="a title", matrices={"FV": made_matrix(NAMES)},
            points=named_points(NAMES), categories={},
        )  # fmt: skip
