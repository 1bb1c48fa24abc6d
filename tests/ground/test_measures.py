"""Measures: what titles, columns and axes say of one and the same quantity."""

import pytest

from fv_lens.ground.measures import CHOSEN, COMPLETED, ELSEWHERE, MEASURES


@pytest.mark.parametrize("name", MEASURES)
def test_a_share_counts_its_things_and_all_else_is_in_nats(name):
    measure = MEASURES[name]
    assert measure.unit("analogies") == ("share of analogies" if measure.share else "nats")
    assert measure.share == (name not in ("log_prob", "divergence"))
    assert measure.column == measure.short + ", nats" * (not measure.share)


def test_every_measure_is_of_completed_words_of_choices_or_of_side_effects():
    assert (*COMPLETED, *CHOSEN, *ELSEWHERE) == tuple(MEASURES)
    assert len({measure.heading for measure in MEASURES.values()}) == len(MEASURES)
