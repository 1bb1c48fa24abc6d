"""Similarities are drawn in the order asked for, on a scale of their own, what is unknown in grey."""

import numpy as np
import pandas as pd
import pytest

from fv_lens import plots
from fv_lens.ground.errors import InputError

from .made import made_matrix


def heats(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def test_matrices_are_drawn_in_the_order_asked_for():
    names = list("abcdef")
    given = {"people": made_matrix(names), "FFV": made_matrix(names[::-1], seed=1)}
    order = list("fbd")
    figure = plots.similarity(given, order)
    for heat, matrix in zip(heats(figure), given.values(), strict=True):
        np.testing.assert_array_equal(heat.z, matrix.loc[order, order])
    assert list(figure.layout.yaxis.ticktext) == order
    assert [note.text.split("<br>")[0] for note in figure.layout.annotations] == ["<b>people</b>", "<b>FFV</b>"]


def test_by_default_like_stands_beside_like_in_the_first_matrix_without_gaps():
    names = [f"{group}{i}" for i in range(4) for group in "abc"]
    blocks = np.array([[0.9 if one[0] == other[0] else 0.1 for other in names] for one in names])
    whole = pd.DataFrame(blocks, names, names)
    gaps = made_matrix(names)
    gaps.iloc[0, 1] = gaps.iloc[1, 0] = np.nan
    figure = plots.similarity({"people": gaps, "FV": whole, "FFV": made_matrix(names, seed=3)})
    order = list(figure.layout.yaxis.ticktext)
    assert sorted(order) == sorted(names)
    assert (
        len([1 for one, other in zip(order, order[1:]) if one[0] != other[0]]) == 2
    )  # three groups, each in one piece
    np.testing.assert_array_equal(heats(figure)[0].z, gaps.loc[order, order])
    np.testing.assert_array_equal(heats(figure)[1].z, whole.loc[order, order])


def test_where_no_matrix_is_complete_the_order_is_that_of_the_first():
    matrix = made_matrix(list("dcba"))
    matrix.iloc[0, 2] = np.nan
    assert list(plots.similarity({"people": matrix}).layout.yaxis.ticktext) == list("dcba")


@pytest.mark.parametrize("n", [1, 2])
def test_few_names_are_drawn_too(n):
    assert np.shape(heats(plots.similarity({"FV": made_matrix(list("ab")[:n])}))[0].z) == (n, n)


def test_colours_are_centred_at_the_mean_off_the_diagonal_of_each():
    names = list("abcde")
    given = {"people": 4 + 2 * made_matrix(names), "FV": made_matrix(names, seed=1)}
    figure = plots.similarity(given, names)
    for heat, matrix in zip(heats(figure), given.values()):
        off = matrix.to_numpy()[~np.eye(5, dtype=bool)]
        assert heat.zmid == pytest.approx(off.mean())
        assert heat.zmax - heat.zmid == pytest.approx(heat.zmid - heat.zmin)
        assert heat.zmax - heat.zmid == pytest.approx(np.quantile(np.abs(off - off.mean()), 0.995))
    assert heats(figure)[0].zmax - heats(figure)[0].zmid != heats(figure)[1].zmax - heats(figure)[1].zmid


def test_unknown_numbers_are_left_grey_and_said_to_be():
    matrix = made_matrix(list("abcd"))
    assert "not known" not in plots.similarity({"FV": matrix}).layout.title.text
    for gap in (np.nan, np.inf):
        matrix.iloc[0, 2] = gap
        figure = plots.similarity({"FV": matrix}, list("abcd"))
        assert np.isnan(heats(figure)[0].z[0][2]) and np.isfinite(heats(figure)[0].zmax)
        assert heats(figure)[0].hoverongaps is False and "grey: not known" in figure.layout.title.text


def test_hovering_a_cell_gives_both_names_and_the_number():
    matrix = made_matrix(list("abc"))
    text = heats(plots.similarity({"FV": matrix}, list("cba")))[0].text
    assert text[0][2] == f"<b>c</b><br>a<br>FV: {matrix.loc['c', 'a']:.3g}"


def test_a_constant_matrix_has_a_scale():
    matrix = pd.DataFrame(np.full((3, 3), 0.25), list("abc"), list("abc"))
    [heat] = heats(plots.similarity({"FV": matrix}))
    assert heat.zmin < 0.25 < heat.zmax


def test_a_matrix_that_cannot_be_drawn_is_refused():
    good = made_matrix(list("abc"))
    for bad, message in (
        (good.iloc[:2], "'FV' is not square with the same names on both sides"),
        (good[list("cab")], "'FV' is not square with the same names on both sides"),
        (made_matrix(list("aba")), "'FV' has 'a' twice"),
        (good.astype(str), "'FV' holds something that is not a number"),
        (made_matrix(list("abd")), "'FV' lacks 'c'"),
    ):
        with pytest.raises(InputError, match=message):
            plots.similarity({"people": good, "FV": bad})


def test_names_that_cannot_be_ordered_are_refused():
    good = made_matrix(list("abc"))
    with pytest.raises(InputError, match="matrices is empty"):
        plots.similarity({})
    with pytest.raises(InputError, match="'a' is named twice"):
        plots.similarity({"FV": good}, ["a", "b", "a"])
    with pytest.raises(InputError, match="'FV' lacks 'z'"):
        plots.similarity({"FV": good}, ["a", "z"])
    with pytest.raises(InputError, match="no names to show"):
        plots.similarity({"FV": good}, [])
