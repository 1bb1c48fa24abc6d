"""Fill the tables of demos/results.md from the folders that the commands left.

    python demos/pages/tables.py study=fv_lens_study study-bats=bats_study study-models=three_models
    python demos/pages/tables.py analogies=fv_lens_analogies analogies-bats=bats_analogies affine=fv_lens_analogies
    python demos/pages/tables.py u2=u2 google=google bats=bats best-u2=u2 best-scan=scan humans=fv_lens_humans

A block of the page is filled where all of its folders are given; the others stay as they are.
"""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pandas as pd

PAGE = Path(__file__).parents[1] / "results.md"
ANALOGIES = {  # line of the table -> method and prompt in results.csv
    "prompt alone, one-shot": ("prompt only", "one-shot"),
    "posterior, zero-shot": ("posterior", "zero-shot"),
    "single best vector, zero-shot": ("single best", "zero-shot"),
    "uniform weights, one-shot": ("uniform", "one-shot"),
    "summed vectors, posterior, one-shot": ("summed vectors, posterior", "one-shot"),
    'the pair alone ("fitted"), one-shot': ("fitted", "one-shot"),
    "shared vector alone, one-shot": ("shared alone", "one-shot"),
    "shared + composite, one-shot": ("shared + composite", "one-shot"),
    "shared + centred + fitted, one-shot": ("shared + centred + fitted", "one-shot"),
    "**the best on validation**, one-shot": ("shared + best", "one-shot"),
    "true relation's vector, zero-shot (where there is one)": ("true relation", "zero-shot"),
}
LIBRARIES = {"BATS": ("full", "relation left out", "family left out"), "bundled": ("full", "family left out")}
AFFINE = (
    "prompt only", "posterior", "single best", "fitted", "affine, diagonal", "affine, full", "shared alone",
    "shared + fitted", "shared + composite", "true relation",
)  # fmt: skip
AFFINE_DIFFERENCES = (
    ("affine, full", "prompt only"), ("affine, full", "posterior"), ("affine, full", "single best"),
    ("affine, full", "fitted"), ("affine, full", "shared alone"), ("shared alone", "prompt only"),
)  # fmt: skip
CHOICES = {
    "prompt alone": ("prompt only", "one-shot"),
    "prompt alone, as a sentence": ("prompt only", "sentence"),
    "uniform weights": ("uniform", "one-shot"),
    "shared vector alone": ("shared alone", "one-shot"),
    "posterior": ("posterior", "one-shot"),
    "single best vector": ("single best", "one-shot"),
    "shared + composite": ("shared + composite", "one-shot"),
    'the pair alone ("fitted")': ("fitted", "one-shot"),
    "likeness of the weights of A:B and C:D": ("weight profiles", ""),
}
WAYS = {
    "choice": "log P(D \\| C)",
    "choice_minus_plain": "log P(D \\| C), minus that without the vector",
    "choice_both_ways": "log P(D \\| C) + log P(C \\| D)",
}
PEOPLE = {  # line of the table -> measure in results.csv
    "relations, vectors of all pairs": "relations",
    "relations, cross-fitted": "relations, cross-fitted",
    "pairs, cross-fitted": "pairs by composites, all, cross-fitted",
    "typicality, cross-fitted": "typicality, cross-fitted",
}
KINDS = {"FFV from zero": "FFV", "FV": "FV", "mean difference": "mean difference", "no vector": "no vector"}


def study(folder: Path) -> str:
    """What `fv-lens table` prints."""
    done = subprocess.run([sys.executable, "-m", "fv_lens", "table", folder], capture_output=True, encoding="utf-8")
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.strip()


def analogies(bats: Path, bundled: Path) -> str:
    """Analogies completed, by method, prompt and library."""
    found = {"BATS": _frame(bats), "bundled": _frame(bundled)}
    head = ["method, prompt"]
    for name, libraries in LIBRARIES.items():
        head += [f"{name}: {libraries[0]}", *libraries[1:]]
    lines = []
    for label, (method, prompt) in ANALOGIES.items():
        line = [label]
        for name, libraries in LIBRARIES.items():
            cells = [_cell(found[name], method=method, prompt=prompt, library=of) for of in libraries]
            alone = _cell(found[name], method=method, prompt=prompt, library="")
            same = "" if method == "true relation" else "same"
            line += [alone, *[same] * (len(libraries) - 1)] if alone else cells
        lines.append(line)
    return _table(head, lines)


def affine(folder: Path) -> str:
    """One-shot prompts with the paper's composite and what stands beside it; far and near ones by themselves."""
    frame = pd.read_csv(folder / "results.csv", keep_default_na=False, na_values={"low": "", "high": ""})
    full, relation, family = settings = ("full", "relation left out", "family left out")
    apart = [group for group in ("far", "near") if group in set(frame.group)]
    columns = [(of, "all", of) for of in settings] + [(relation, of, f"{of}, {relation}") for of in apart]
    lines = []
    for method in AFFINE:
        where = {"method": method, "prompt": "one-shot"}
        cells = [
            _cell(frame, **where, library=of, group=group) or _cell(frame, **where, library="", group=group)
            for of, group, _ in columns
        ]
        lines.append([method, *cells])
    for method, other in AFFINE_DIFFERENCES:
        where = {"method": f"{method} - {other}", "prompt": "one-shot"}
        cells = [_cell(frame, **where, library=of, group=group) for of, group, _ in columns]
        lines.append([f"{method} \N{MINUS SIGN} {other}", *cells])
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    vectors = f"{len(summary['vectors'])} vectors at layer {summary['layer']}"
    dtype = summary["dtype"].removeprefix("torch.")
    model = summary["model"] + f", in {dtype}" * (dtype != "float32")
    heading = f"{model}, {frame['n'].max()} test analogies, {vectors}:"
    return f"{heading}\n\n{_table(['method, one-shot', *(heading for *_, heading in columns)], lines)}"


def choices(u2: Path, google: Path, bats: Path) -> str:
    """Answers chosen, by method; the one-shot prompt and the full library where nothing else is said."""
    folders = {"U2": u2, "Google": google, "BATS": bats}
    frames = {name: _frame(folder) for name, folder in folders.items()}
    summaries = {name: json.loads((folder / "summary.json").read_text("utf-8")) for name, folder in folders.items()}
    lines = [["chance", *(_short(summary["chance"]) for summary in summaries.values())]]
    for label, (method, prompt) in CHOICES.items():
        lines.append([label, *(_score(frame, method, prompt) for frame in frames.values())])
    chosen = {(s["chosen on validation questions"]["row"], s["chosen on validation questions"]["measure"])
              for s in summaries.values()}  # fmt: skip
    lines += [_chosen(frames.values(), *way) for way in sorted(chosen)]
    return _table(["method", *folders], lines)


def best_model(u2: Path, scan: Path) -> str:
    """Choices of U2 and completions of SCAN by one model, its one-shot prompt and the full library."""
    frame, completed = _frame(u2), _frame(scan)
    summary = json.loads((u2 / "summary.json").read_text("utf-8"))
    chosen = summary["chosen on validation questions"]
    lines = [["chance", _short(summary["chance"]), ""]]
    for label, (each, at) in CHOICES.items():
        lines.append([label, _score(frame, each, at), _score(completed, each, at, "accuracy")])
    for each in ("affine, diagonal", "affine, full", "shared + best"):
        lines.append([each, _score(frame, each, "one-shot"), _score(completed, each, "one-shot", "accuracy")])
    lines.append([*_chosen([frame], chosen["row"], chosen["measure"]), ""])
    return _table(["method", "U2, chosen", "SCAN, completed"], lines)


def humans(folder: Path) -> str:
    """Spearman's rho with people, by kind of vectors."""
    frame = _frame(folder)
    lines = []
    for label, measure in PEOPLE.items():
        cells = [_cell(frame, measure=measure, vectors=kind) for kind in KINDS.values()]
        lines.append([label, *cells])
    return _table(["", *KINDS], lines)


BLOCKS: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "study-bats": (study, ("study-bats",)),
    "study": (study, ("study",)),
    "study-models": (study, ("study-models",)),
    "analogies": (analogies, ("analogies-bats", "analogies")),
    "affine": (affine, ("affine",)),
    "affine-gemma": (affine, ("affine-gemma",)),
    "affine-third": (affine, ("affine-third",)),
    "affine-bats": (affine, ("affine-bats",)),
    "affine-bats-gemma": (affine, ("affine-bats-gemma",)),
    "affine-bats-third": (affine, ("affine-bats-third",)),
    "choices": (choices, ("u2", "google", "bats")),
    "best-model": (best_model, ("best-u2", "best-scan")),
    "humans": (humans, ("humans",)),
}


def filled(page: str, folders: Mapping[str, Path]) -> str:
    """The page with the blocks whose folders are given."""
    for name, (make, needed) in BLOCKS.items():
        if set(needed) <= set(folders):
            start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
            parts = re.split(f"(?s){re.escape(start)}.*?{re.escape(end)}", page)
            if len(parts) != 2:
                sys.exit(f"{PAGE.name} has {len(parts) - 1} blocks {start} ... {end}, and should have one.")
            table = make(*(folders[key] for key in needed))
            page = f"{parts[0]}{start}\n\n{table}\n\n{end}{parts[1]}"
    return page


def _frame(folder: Path) -> pd.DataFrame:
    frame = pd.read_csv(folder / "results.csv", keep_default_na=False, na_values={"low": "", "high": "", "p": ""})
    return frame[frame.part == "score"] if "part" in frame else frame


def _score(frame: pd.DataFrame, method: str, prompt: str, measure: str = "choice") -> str:
    where = {"method": method, "prompt": prompt, "measure": measure}
    return _cell(frame, library="full", **where) or _cell(frame, library="", **where)


def _chosen(frames: Collection[pd.DataFrame], row: str, measure: str) -> list[str]:
    """The line of what was chosen on validation, a row as `summary.json` names it."""
    columns = ["method", "library", "prompt"]
    named = {
        ", ".join(filter(None, parts)): parts
        for frame in frames
        for parts in frame[columns].itertuples(index=False, name=None)
    }
    said = [part for part in named[row] if part not in ("", "full", "one-shot")]
    where = dict(zip(columns, named[row]), measure=measure)
    cells = [_cell(frame, **where) for frame in frames]
    return [f"**chosen on validation**: {', '.join([*said, WAYS[measure]])}", *cells]


def _cell(frame: pd.DataFrame, **where: str) -> str:
    """The number of one line with its interval; nothing where there is no such line.

    A difference has its sign, and is bold where its interval excludes 0.
    """
    signed = " - " in where.get("method", "")
    where = {"measure": "accuracy"} | where if "method" in where else where
    for column, value in where.items():
        frame = frame[frame[column] == value]
    if frame.empty:
        return ""
    line = frame.iloc[0]
    interval = "" if math.isnan(line.low) else f" [{_short(line.low)}, {_short(line.high)}]"
    p = f", p = {_short(line.p, '.1g')}" if not math.isnan(line.get("p", math.nan)) else ""
    value = _short(line.value, "+.2f" if signed else ".2f")
    value = f"**{value}**" if signed and line.low * line.high > 0 else value
    return f"{value}{interval}{p}"


def _short(number: float, form: str = ".2f") -> str:
    """A share without the 0 before its point."""
    return re.sub(r"^([-+]?)0\.", r"\1.", f"{number:{form}}")


def _table(head: list[str], lines: list[list[str]]) -> str:
    frame = pd.DataFrame(lines, columns=head, dtype=str)
    return frame.to_markdown(index=False, tablefmt="github", disable_numparse=True)


def main(arguments: list[str]) -> None:
    """Fill what the folders allow."""
    known = {key for _, needed in BLOCKS.values() for key in needed}
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if not given or set(given) - known:
        sys.exit(f"{__doc__}\nGive NAME=FOLDER; the names are {', '.join(sorted(known))}.")
    folders = {name: Path(folder) for name, folder in given.items()}
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), folders), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
