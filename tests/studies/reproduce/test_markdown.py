"""The Markdown of a study holds every row, the paired differences and the names, whatever the settings were."""

import re
import subprocess
import sys

import numpy as np
import pytest

from fv_lens.studies.reproduce.markdown import markdown

from ...plots.made_table import DIFFERENCES, FRAME, LEVELS, pick

SUMMARY = {
    "versions": {"torch": "2"}, "chosen": {"layer": 12}, "settings": {"n_shots": 10, "n_pairs": 20, "n_validation": 10},
    "model": "a model", "dtype": "float32",
}  # fmt: skip


def lines(text: str) -> dict[str, list[str]]:
    """First cell of each line of the tables -> the others, of the first such line."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row: others for row, *others in reversed(cells) if row.strip("-")}


def shown(row: str, sign: str = "", **where) -> str:
    found = pick(row, **where)
    value = f"{found.value:{sign}.2f}"
    sure = sign and (found.low > 0 or found.high < 0)
    return f"{f'**{value}**' if sure else value} [{found.low:.2f}, {found.high:.2f}]"


def test_every_row_and_difference_is_there_with_its_interval():
    text = markdown(FRAME, SUMMARY)
    found = lines(text)
    for row in LEVELS:
        assert found[row][0] == shown(row) and found[row][2] == shown(row, measure="first_token_accuracy")
    for row in DIFFERENCES[:2]:
        assert found[row.replace(" - ", " − ")][2] == shown(row, "+", part="difference", measure="log_prob")
    assert text.startswith("a model (float32), 47 relations, 940 test words; vectors tuned on 20 pairs at layer 12")
    assert found["random"] == [
        shown("random", part="decoding", measure=f"name score, {r}") for r in ("unembed", "model")
    ]


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("shots", [4, 40])
def test_prompts_of_other_numbers_of_shots_are_there_as_well(shots):
    names = {"10-shot": f"{shots}-shot", "FFV from FV - 10-shot": f"FFV from FV - {shots}-shot"}
    summary = SUMMARY | {"settings": SUMMARY["settings"] | {"n_shots": shots}}
    text = markdown(FRAME.replace({"row": names}), summary)
    names = {old.replace(" - ", " − "): new.replace(" - ", " − ") for old, new in names.items()}
    usual = {names.get(row, row): others for row, others in lines(markdown(FRAME, SUMMARY)).items()}
    assert lines(text) == usual and set(names.values()) < usual.keys()


def test_what_has_no_interval_is_shown_without():
    frame = FRAME[FRAME.name.isin(["antonym", "other", "all"])].assign(low=np.nan, high=np.nan)
    text = markdown(frame, SUMMARY)
    assert not re.search(r"\bnan\b", text) and "1 relation, 20 test words" in text
    assert lines(text)["FV"][0] == f"{pick('FV').value:.2f}"


@pytest.mark.slow
def test_the_table_comes_without_torch():
    code = "import sys; from fv_lens.studies.reproduce import markdown; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
