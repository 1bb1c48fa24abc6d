"""The word lists of "Function Vectors in Large Language Models", read from their folder.

Todd, Li, Sen Sharma, Mueller, Wallace & Bau (2024), Function Vectors in Large Language Models (arXiv 2310.15213). The
lists are not bundled; they are the files of `dataset_files/abstractive` of github.com/ericwtodd/function_vectors, each
`[{"input": "hot", "output": "cold"}, ...]`.
"""

from pathlib import Path

from ..ground.errors import InputError
from ..ground.text_files import FilePath
from .bundled_files import bundled_json
from .relation_files import load_relation
from .relations import Relation
from .word_lists import by_name, json_files, without_copies


def load_todd(folder: FilePath) -> dict[str, Relation]:
    """Load the word lists of Todd et al., by name, in the order of the alphabet.

    Files are looked for in the folder and its sub-folders; the twenty-six abstractive lists of words that are there are
    loaded, and files of other names ignored, such as the texts of ag_news and the choices of the extractive lists.
    `word_length.json` gives "word-length". Categories, families and the words that name a relation are fv_lens's own,
    as for the bundled relations.

    A word that comes twice gets all its answers, each once, the first to be shown; whitespace around words goes. An
    answer equal to its word is not an answer, and a word without another is dropped. Of antonym and synonym many pairs
    are listed in both directions; `Relation.split` keeps them in one part.

    Raises:
        InputError: no such folder; none of the lists in it; two files of one name; a file that cannot be read, is not
            UTF-8, JSON or such a list, or has a word that is refused. The message names the file and the place in it.

    Example:
        >>> relations = load_todd("function_vectors/dataset_files/abstractive")
        >>> len(relations), relations["present-past"].answers["accelerate"]
        (26, ('accelerated',))
    """
    described = bundled_json("todd.json")
    files = [file for file in json_files(folder, "the word lists of Todd et al.", depth=1) if file.stem in described]
    if not files:
        raise InputError(
            f"{str(folder)!r} has none of the word lists of Todd et al.; looked, in it and its sub-folders, for "
            f"{', '.join(described)} (.json); give the path of their folder `abstractive`"
        )
    return by_name((file, _load(file, **described[file.stem])) for file in files)


def _load(file: Path, names: list[str], category: str, family: str) -> Relation:
    try:
        pairs = without_copies(load_relation(file).pairs)
        return Relation(file.stem.replace("_", "-"), pairs, names, category, family)
    except InputError as error:
        message = str(error).removeprefix(f"{file}: ")
        raise InputError(f"{file}: {message}") from None
