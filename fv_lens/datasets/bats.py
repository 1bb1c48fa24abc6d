"""The Bigger Analogy Test Set, BATS 3.0: forty relations of fifty words, read from its folder.

Gladkova, Drozd & Matsuoka (2016), Analogy-based detection of morphological and semantic relations with word
embeddings: what works and what doesn't (doi 10.18653/v1/N16-2002). The set is not bundled; it is a folder of files
such as `3_Encyclopedic_semantics/E05 [name - occupation].txt`, with a word, a tab and answers separated by "/" in each
line.
"""

import os
import re
from pathlib import Path

from ..ground.errors import InputError, whole_number
from ..ground.text_files import FilePath, own_path, read_text
from .bundled_files import bundled_json
from .relations import Relation, merge_pairs

_FILE_NAME = re.compile(r"([IDEL](?:0[1-9]|10)) \[(.+)\]\.txt")
_CATEGORIES = {"I": "inflection", "D": "derivation", "E": "encyclopedic", "L": "lexicographic"}
# Named country - capital, but its lines hold the capital first.
_TURNED_ROUND = {"E01"}


def load_bats(folder: FilePath, max_answers: int = 20) -> dict[str, Relation]:
    """Load the relations of a BATS 3.0 folder, by name, in the order of their codes (I01 to I10, D, E, L).

    Files are looked for in the folder and its sub-folders; those of the forty that are there are loaded, and files of
    other names ignored. A relation's name is made from code and label: `I01 [noun - plural_reg].txt` gives
    "i01-noun-plural-reg". Its category follows from the code's letter; its names and family are fv_lens's own, the
    families shared with the bundled relations.

    Underscores become spaces. Repeated answers are kept once, a word's own form is not an answer, and a line without
    answers is dropped. A word that occurs twice gets all its answers. E01 is reversed, to be country -> capital as its
    name says; a capital with several countries (england/uk/britain) is kept for the first only, as a split could
    otherwise show in train what it asks in test.

    Args:
        folder: the folder BATS_3.0, or one with some of its files.
        max_answers: how many answers of a word are kept, from the first on; up to 268 are listed.

    Raises:
        InputError: no such folder; no BATS files in it; two files of one code; a file that cannot be read, is not
            UTF-8 or has no pairs; a line that is not a word, a tab and answers. The message names file and line.

    Example:
        >>> relations = load_bats("BATS_3.0")
        >>> len(relations), relations["e05-name-occupation"].answers["andersen"]
        (40, ('writer', 'poet', 'author'))
    """
    max_answers = whole_number("max_answers", max_answers, least=1)
    files = _find_files(own_path(folder))
    described = bundled_json("bats.json")
    relations = (_load(files[code], code, max_answers, **described[code]) for code in described if code in files)
    return {relation.name: relation for relation in relations}


def _find_files(folder: Path) -> dict[str, Path]:
    """The BATS files by their code."""
    if not os.path.isdir(folder):
        raise InputError(f"{str(folder)!r} is not a folder; give the path of the folder BATS_3.0")
    files: dict[str, Path] = {}
    for file in sorted([*folder.glob("*.txt"), *folder.glob("*/*.txt")]):
        if match := _FILE_NAME.fullmatch(file.name):
            if (other := files.setdefault(match[1], file)) != file:
                raise InputError(f"{other} and {file} are both for {match[1]}; keep one of them")
    if not files:
        raise InputError(
            f"{str(folder)!r} has no BATS files; looked, in it and its sub-folders, for files named like "
            "'E05 [name - occupation].txt'; give the path of the folder BATS_3.0"
        )
    return files


def _load(file: Path, code: str, max_answers: int, names: list[str], family: str) -> Relation:
    label = file.stem.partition("[")[2].rstrip("]")
    name = re.sub(r"[\W_]+", "-", f"{code} {label}".lower()).strip("-")
    try:
        places, pairs = _parse(read_text(file))
        if code in _TURNED_ROUND:
            pairs = [(answers[0], [word]) for word, answers in pairs]
        capped = [(word, answers[:max_answers]) for word, answers in merge_pairs(pairs, places)]
        return Relation(name, capped, names, _CATEGORIES[code[0]], family)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _parse(text: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The place, and the word and answers, of each line that has an answer other than its word."""
    places: list[str] = []
    pairs: list[tuple[str, list[str]]] = []
    # Not splitlines(), which also parts at rarer characters and would number the lines as no editor does.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        word, _, listed = (part.strip() for part in line.replace("_", " ").partition("\t"))
        if "\t" not in line or "\t" in listed or not word:
            raise InputError(
                f"line {number} is {line.rstrip()!r}; give a word, a tab and answers, as in 'andersen\\twriter/poet'"
            )
        answers = [answer.strip() for answer in listed.split("/")]
        if answers := [answer for answer in answers if answer not in ("", word)]:
            places.append(f"line {number}")
            pairs.append((word, answers))
    return places, pairs
