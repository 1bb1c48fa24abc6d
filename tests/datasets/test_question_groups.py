"""Groups of questions: words as they are, numbers at their median."""

import pytest

from fv_lens.datasets.question_files import load_questions
from fv_lens.datasets.question_groups import group_names
from fv_lens.datasets.questions import Question
from fv_lens.ground.errors import InputError


def asked(*labels: str) -> list[Question]:
    return [Question(("a", "b"), target=f"c{i}", answers=("d",), label=label) for i, label in enumerate(labels)]


def test_words_are_groups_in_the_order_in_which_they_appear():
    assert list(group_names(asked("near", "", "far", "near", "farther"))) == ["near", "far", "farther"]
    assert group_names(asked("near", "far"))["far"] == "far"


@pytest.mark.parametrize("labels", [(), ("", ""), ("near",), ("near", "", "near"), ("3",), ("3", "3.0", "3")])
def test_one_group_is_none(labels):
    assert group_names(asked(*labels)) == {}


@pytest.mark.parametrize(
    ("labels", "low", "groups"),
    [
        (("4", "1", "2", "3"), {"1", "2"}, ("2.5 or less", "more than 2.5")),
        (("0.9", "-1", "0.5"), {"-1", "0.5"}, ("0.5 or less", "more than 0.5")),
        (("1", "1", "1", "1", "7"), {"1"}, ("1 or less", "more than 1")),
        (("1", "5", "5", "5.0"), {"1"}, ("less than 5", "5 or more")),
        (("10", "9", "", "1e1"), {"9"}, ("less than 10", "10 or more")),
    ],
)
def test_numbers_are_parted_at_their_median_over_the_questions(labels, low, groups):
    """Neither part is empty, and the lower one comes first, whatever the order of the questions."""
    names = group_names(asked(*labels))
    assert tuple(dict.fromkeys(names.values())) == groups and "" not in names
    assert {label for label, group in names.items() if group == groups[0]} == low


def test_numbers_among_words_are_refused():
    with pytest.raises(InputError, match=r"number in some questions \('0.3'\) and a word in others \('near'\); give"):
        group_names(asked("near", "0.3", "far"))
    assert list(group_names(asked("nan", "inf"))) == ["nan", "inf"], "these are not numbers that have a median"


def test_the_bundled_questions_are_near_and_far():
    assert set(group_names(load_questions())) == {"near", "far"}
