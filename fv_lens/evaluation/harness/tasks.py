"""Tasks of lm-evaluation-harness over the words that come with fv_lens: relations, analogies, neutral text.

`write_tasks` makes a folder of task files and their data, which any model of the harness can run:

    lm_eval --model hf --model_args pretrained=gpt2 --include_path FOLDER --tasks fv_lens_relation
"""

import json
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ...datasets.neutral import neutral_texts
from ...datasets.prompts import PromptTemplate
from ...datasets.question_files import load_questions
from ...datasets.questions import digest
from ...datasets.relation_files import RelationLike, load_relation
from ...ground import storage
from ...ground.errors import InputError
from ...ground.text_files import FilePath, own_path

# Short name -> what the harness calls it, and its task files.
BUNDLED = {
    "relation": ("fv_lens_relation", ("relation_generate", "relation_loglikelihood")),
    "analogies": ("fv_lens_analogies", ("analogies",)),
    "neutral": ("fv_lens_neutral", ("neutral",)),
}
Line = dict[str, Any]


def write_tasks(
    folder: FilePath,
    relation: RelationLike | None = None,
    template: PromptTemplate = PromptTemplate(),
    names: Iterable[str] = tuple(BUNDLED),
) -> list[str]:
    """Write task files and their data into a folder, and return the names by which the harness knows the tasks.

    - relation: the test words of `relation` in zero-shot prompts. Completed and compared with every right answer
      (`fv_lens_relation_generate`), and the log-likelihood of the usual answer (`fv_lens_relation_loglikelihood`).
    - analogies: the bundled questions in one-shot prompts, which show A:B and ask for C's partner, to be chosen among
      the foils. Mixed, so that the first of them are of many relations.
    - neutral: the bundled beginnings of everyday sentences, as rolling text.

    Args:
        folder: an existing folder. The task files name their data by its full path.
        relation: needed for "relation" alone.
        template: the form of prompts and answers in "relation" and "analogies".
        names: some of "relation", "analogies" and "neutral".

    Raises:
        InputError: an unknown name; no relation where one is needed; a folder that cannot be written to.

    Example:
        >>> write_tasks("tasks", "antonym", names=["relation"])
        ['fv_lens_relation']
    """
    path, names = own_path(folder).absolute(), tuple(names)
    if unknown := [name for name in names if name not in BUNDLED]:
        raise InputError(f"{unknown[0]!r} is not a bundled task; choose from {', '.join(BUNDLED)}.")
    data: dict[str, Callable[[], Sequence[Line]]] = {
        "relation": lambda: relation_lines(relation, template),
        "analogies": lambda: analogy_lines(template),
        "neutral": lambda: [{"text": text} for text in neutral_texts()],
    }
    lines_of = {name: data[name]() for name in names}  # all of them before the first file
    for name, lines in lines_of.items():
        file_of_lines = path / f"{name}.jsonl"
        _write(file_of_lines, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        for file in BUNDLED[name][1]:
            source = resources.files(__package__).joinpath("yaml", f"{file}.yaml")
            config = yaml.safe_load(source.read_text(encoding="utf-8"))
            config["dataset_kwargs"] = {"data_files": {"test": str(file_of_lines)}}
            _write(path / f"{file}.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    return [BUNDLED[name][0] for name in names]


def relation_lines(relation: RelationLike | None, template: PromptTemplate = PromptTemplate()) -> list[Line]:
    """One line for each test word: prompt, continuation (the usual answer, as the template has it), all answers."""
    if relation is None:
        raise InputError("The task 'relation' needs a relation; give a bundled name, a file or a Relation.")
    return [
        {
            "word": word,
            "prompt": template.prompt(word),
            "continuation": template.answer.format(answer=answers[0]),
            "answers": list(answers),
        }
        for word, answers in load_relation(relation).split().test.pairs
    ]


def analogy_lines(template: PromptTemplate = PromptTemplate()) -> list[Line]:
    """One line for each bundled question: a one-shot prompt, its choices in a mixed order, the place of the right one.

    The lines are mixed as well, in the same order on every machine.
    """
    questions = [question.shuffled() for question in load_questions()]
    return [
        {
            "relation": question.relation,
            "prompt": template.prompt(question.completion[0], question.asked(1).demonstrations),
            "choices": [template.answer.format(answer=d) for _, d in question.pairs],
            "right": question.right,
        }
        for question in sorted(questions, key=lambda question: digest(question.identity))
    ]


def _write(path: Path, text: str) -> None:
    with storage.written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
