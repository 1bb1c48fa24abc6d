"""LRE, the relations of "Linearity of Relation Decoding": forty-seven relations of four kinds, read from their folder.

Hernandez, Sen Sharma, Haklay, Meng, Wattenberg, Andreas, Belinkov & Bau (2024), Linearity of Relation Decoding in
Transformer Language Models (arXiv 2308.09124). The set is not bundled; it is the folder `data` of
github.com/evandez/relations, with files such as `factual/country_capital_city.json`.
"""

from pathlib import Path
from typing import Any

from ..ground.errors import InputError
from ..ground.text_files import FilePath, parse_json, read_text
from .bundled_files import bundled_json
from .relations import Relation, merge_pairs
from .word_lists import by_name, json_files, without_copies

KINDS = ("linguistic", "commonsense", "factual", "bias")
SAMPLE = '{"subject": "France", "object": "Paris"}'


def load_lre(folder: FilePath) -> dict[str, Relation]:
    """Load the relations of an LRE folder, by name: linguistic, commonsense, factual, bias, each in the order of names.

    Every .json file in a sub-folder of one of these names is a relation, and other files are ignored; the folder may
    be that sub-folder itself, or one above it. `factual/country_capital_city.json` gives "country-capital-city". Its
    category and its family are the name of the sub-folder: intervals over families are then over the four kinds. The
    words that name a relation are fv_lens's own, for the files of the set.

    A subject that stands several times gets all its objects as right answers, each once, the first to be shown. An
    object equal to its subject is not an answer, and a subject without another is dropped.

    Raises:
        InputError: no such folder; no LRE files in it; two files of one name; a file that cannot be read, is not UTF-8
            or JSON, lacks samples or has a word that is refused. The message names the file and the place in it.

    Example:
        >>> relations = load_lre("relations/data")
        >>> len(relations), relations["country-capital-city"].answers["France"]
        (47, ('Paris',))
    """
    files = [file for file in json_files(folder, "the folder `data` of LRE", depth=2) if file.parent.name in KINDS]
    if not files:
        raise InputError(
            f"{str(folder)!r} has no LRE files; looked for .json files in folders named {', '.join(KINDS)}, in it and "
            "its sub-folders; give the path of the folder `data` of LRE"
        )
    names = bundled_json("lre.json")
    in_order = sorted(files, key=lambda file: KINDS.index(file.parent.name))
    return by_name((file, _load(file, names.get(file.stem, []))) for file in in_order)


def _load(file: Path, names: list[str]) -> Relation:
    try:
        samples = _samples(parse_json(read_text(file), what="this file"))
        places = [f"sample {number}" for number in range(1, len(samples) + 1)]
        pairs = without_copies(merge_pairs(samples, places))
        return Relation(file.stem.replace("_", "-"), pairs, names, file.parent.name, file.parent.name)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _samples(content: Any) -> list[tuple[Any, Any]]:
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, list):
        raise InputError(f'this file has no list of samples; an LRE file holds {{"samples": [{SAMPLE}, ...]}}')
    for number, sample in enumerate(samples, 1):
        if not isinstance(sample, dict) or not {"subject", "object"} <= sample.keys():
            raise InputError(f"sample {number} is {sample!r}; it should be {SAMPLE}")
    return [(sample["subject"], sample["object"]) for sample in samples]
