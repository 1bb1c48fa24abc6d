"""Files that people write: read strictly, refused with the file, the line and what is wrong, whatever their kind."""

import json
import os
import time
from importlib import resources

import pytest
import torch

from fv_lens.analogies.composition import Composition, Folded
from fv_lens.datasets.bats import load_bats
from fv_lens.datasets.lre import load_lre
from fv_lens.datasets.question_files import load_questions
from fv_lens.datasets.ratings import COLUMNS, load_ratings
from fv_lens.datasets.relation_files import load_relation
from fv_lens.datasets.relations import Relation
from fv_lens.datasets.semeval import load_semeval
from fv_lens.datasets.todd import load_todd
from fv_lens.ground.errors import InputError
from fv_lens.ground.text_files import own_path, parse_json, table_rows
from fv_lens.ground.words import check_text
from fv_lens.vectors import function_vector
from fv_lens.vectors.effects import HeadEffects

RATED = dict(zip(COLUMNS, ("1a", "2a", "dog", "poodle", "wheel", "car", "2.5", "10")))
BATS = "E05 [name - occupation].txt"
UNSEEN = {
    "zero-width space": "ho\u200bt", "word joiner": "ho\u2060t", "byte order mark": "ho\ufefft",
    "soft hyphen": "ho\u00adt", "non-joiner in Latin": "ho\u200ct", "joiner at the end": "hot\u200d",
    "right-to-left mark": "ho\u200ft", "override": "ho\u202et", "bell": "ho\u0007t", "NUL": "ho\0t",
    "delete": "ho\u007ft", "next line": "ho\u0085t", "line feed": "ho\nt", "tab": "ho\tt", "escape": "ho\x1b[1mt",
    "Hangul filler": "ho\u3164t",
    "lone joiner": "\u200d", "tags without a flag": "ho\U000e0067t", "joiner between Cyrillic": "до\u200dм",
}  # fmt: skip
SEEN = [
    "naïve", "nai\u0308ve", "mu\u0306\u0308", "Ελλάδα", "дом", "می\u200cخواهم", "क\u094d\u200dष", "ക\u0d4d\u200d",
    "👩\u200d🚀", "🏳\ufe0f\u200d🌈", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "日本", "한국어",
    "New\u00a0York", "\u06dd٣", "can't", "100 %", "a\u2028b", "שלום", "ไทย", "x²", "\U0001f1e9\U0001f1ea",
]  # fmt: skip


def questions(folder, *rows: str):
    return written(folder / "q.csv", "a,b,c,d,foil1,foil2\n" + "\n".join(rows))


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rated(folder, **changed: str):
    cells = RATED | changed
    return written(folder / "relsim_mean_ratings.csv", f"{','.join(cells)}\n{','.join(cells.values())}\n")


def semeval(folder, *ratings: str):
    written(folder / "subcategories-definitions.txt", "1, a, CLASS-INCLUSION, Taxonomic, Y is a kind of X\n")
    written(folder / "reversals.txt", "#\n")
    return written(folder / "GoldRatings-1a.txt", "# ratings\n" + "\n".join(ratings) + "\n")


# A word in each kind of file: (write it, load it)
KINDS = {
    "relation": (lambda f, w: written(f / "r.json", json.dumps({"name": "r", "pairs": [["a", "b"], [w, "c"]]})), None),
    "answer": (lambda f, w: written(f / "r.json", json.dumps({"name": "r", "pairs": [["a", ["b", w]]]})), None),
    "name": (lambda f, w: written(f / "r.json", json.dumps({"name": w, "pairs": [["a", "b"]]})), None),
    "names": (lambda f, w: written(f / "r.json", json.dumps({"name": "r", "pairs": [["a", "b"]], "names": [w]})), None),
    "todd": (lambda f, w: written(f / "r.json", json.dumps([{"input": w, "output": "b"}])), None),
    "csv": (lambda f, w: written(f / "r.csv", f'a,b\n"{w}",c\n'), None),
    "tsv": (lambda f, w: written(f / "r.tsv", f'a\tb\n"{w}"\tc\n'), None),
    "question": (
        lambda f, w: written(f / "q.jsonl", json.dumps({"source": ["a", w], "target": "c", "answers": ["d"]})),
        load_questions,
    ),
    "foil": (lambda f, w: questions(f, f'a,b,c,d,"{w}",x'), load_questions),
    "published": (
        lambda f, w: written(
            f / "q.jsonl", json.dumps({"stem": ["a", "b"], "choice": [["c", "d"], ["c", w]], "answer": 0})
        ),
        load_questions,
    ),
    "scan": (
        lambda f, w: written(
            f / "q.csv", f'target,source,targ_word,src_word,analogy_type\ns,t,a,b,k\ns,t,"{w}",d,k\n'
        ),
        load_questions,
    ),
    "ratings": (lambda f, w: rated(f, pair1_word1=f'"{w}"'), load_ratings),
}  # fmt: skip


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("word", UNSEEN.values(), ids=UNSEEN)
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_seen_is_refused_in_every_kind_of_file(kind, word, tmp_path):
    write, load = KINDS[kind]
    path = write(tmp_path, word)
    with pytest.raises(InputError, match="cannot be seen|U\\+[0-9A-F]{4}|whitespace") as caught:
        (load or load_relation)(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not any(ch in str(caught.value) for ch in "\u200b\u200c\u200d\u2060\ufeff\x07\x1b")


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("word", SEEN)
@pytest.mark.parametrize("kind", KINDS)
def test_every_script_is_taken(kind, word, tmp_path):
    write, load = KINDS[kind]
    assert len((load or load_relation)(write(tmp_path, word))) > 0


@pytest.mark.parametrize("word", ["ho\u200bt", "ho\0t"])
def test_lines_of_tables_of_tabs_and_of_ratings_are_named(word, tmp_path):
    path = written(tmp_path / BATS, f"andersen\twriter\nhume\t{word}\n")
    with pytest.raises(InputError, match=r"occupation\].txt: a word of line 2.*cannot be seen"):
        load_bats(path.parent)
    path = semeval(tmp_path / "s", '1.0 "a:b"', f'2.0 "c:{word}"')
    with pytest.raises(InputError, match="GoldRatings-1a.txt: line 3 has the word .*cannot be seen"):
        load_semeval(path.parent)


def test_the_message_names_the_character():
    with pytest.raises(InputError, match=r"a word is 'ho\\u200bt', with U\+200B \(ZERO WIDTH SPACE\).*remove it"):
        check_text("ho\u200bt", "a word is")
    with pytest.raises(InputError, match=r"U\+0007 \(a control character\)"):
        Relation("r", [("ho\x07t", "cold")])


# Tables

QUOTES = [
    ('w1,a1\nw0, "a0"\nw2,a2\n', 2), ('w1,a1\nw0,"a0\nw2,a2\nw3,a3\n', 2), ('w1,a1\nw0,"a0\nw2,"a2"\nw3,a3\n', 2),
    ('w1,a1\nw0,"a0"x\n', 2), ('w1,a1\nw0,"a0" \n', 2), ('w1,a1\nw0,a"0\nw2,a2\n', 2), ('w1,a1\nw0,a0"\n', 2),
    ('w1,a1\n"w0,a0\nw2",a2\n', 2), ('w1,a1\n\n\n"w0",""a0""\n', 4), ('w1,"a1"\nw0,"p"q"r"\n', 2),
]  # fmt: skip


@pytest.mark.slow(but=1)
@pytest.mark.parametrize(("text", "line"), QUOTES, ids=str)
def test_quotes_out_of_place_are_refused_with_their_line(text, line, tmp_path):
    for name, content in (("r.csv", text), ("r.tsv", text.replace(",", "\t"))):
        with pytest.raises(InputError, match=rf"{name}: (a word of )?line {line}\b"):
            load_relation(written(tmp_path / name, content))
    rows = "".join(line if not line.strip() else line.replace("\n", ",c,d\n") for line in text.splitlines(True))
    with pytest.raises(InputError, match=rf"q.csv: line {line + 1}\b"):
        load_questions(written(tmp_path / "q.csv", "a,b,c,d\n" + rows))
    changed = rated(tmp_path, pair1_word1=' "dog"')
    with pytest.raises(InputError, match="relsim_mean_ratings.csv: line 2: .*quote out of place"):
        load_ratings(changed)


def test_right_quotes_are_read_and_lines_counted_from_where_a_row_begins():
    text = '"a, b","say ""hi"""\r\n\r\n"two\nlines",x\nlast,"y"'
    assert table_rows(text) == [(1, ["a, b", 'say "hi"']), (3, ["two\nlines", "x"]), (5, ["last", "y"])]
    assert table_rows("a\tb\rc\td\r", "\t") == [(1, ["a", "b"]), (2, ["c", "d"])]
    assert table_rows("") == [] and table_rows("\n,\n") == []


@pytest.mark.slow
def test_no_pair_of_a_long_table_is_lost(tmp_path):
    rows = [f"w{i},a{i}" for i in range(60)]
    assert len(load_relation(written(tmp_path / "r.csv", "\n".join(rows)))) == 60
    for i in range(0, 60, 7):
        torn = [*rows[:i], f'w{i},"a{i}', *rows[i + 1 :]]
        with pytest.raises(InputError, match=rf"r.csv: line {i + 1}: .*never closed"):
            load_relation(written(tmp_path / "r.csv", "\n".join(torn)))


@pytest.mark.slow
def test_a_quote_that_is_never_closed_is_found_in_a_long_table_without_delay():
    text, started = 'hot,"cold\n' + "up,down\n" * 100_000, time.process_time()
    with pytest.raises(InputError, match="line 1: .*never closed"):
        table_rows(text)
    assert time.process_time() - started < 5, "a second look at every line before it would take minutes"


# JSON


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '{"a": 1, "a": 2}', '[{"b": {"a": [], "a": {}}}]', '{"\\u0061": 1, "a": 2}']
)
def test_a_key_that_occurs_twice_is_refused(text):
    with pytest.raises(InputError, match="the key 'a' occurs twice"):
        parse_json(text)


def test_keys_that_occur_twice_are_named_in_each_kind_of_file(tmp_path):
    path = written(tmp_path / "r.json", '{"name": "r", "pairs": [["a", "b"]], "pairs": [["c", "d"]]}')
    with pytest.raises(InputError, match=r"r.json: the key 'pairs' occurs twice"):
        load_relation(path)
    path = written(tmp_path / "t.json", '[{"input": "a", "input": "b", "output": "c"}]')
    with pytest.raises(InputError, match=r"t.json: the key 'input' occurs twice"):
        load_relation(path)
    one = '{"source": ["a", "b"], "target": "c", "answers": ["d"]}'
    path = written(tmp_path / "q.jsonl", f'{one}\n{one[:-1]}, "target": "e"}}\n')
    with pytest.raises(InputError, match=r"q.jsonl: line 2: the key 'target' occurs twice"):
        load_questions(path)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_not_json_are_refused(constant):
    with pytest.raises(InputError, match=f"{constant} is not a JSON value"):
        parse_json(f"[{constant}]")


# Questions

ONE = {"source": ["hot", "cold"], "target": "big", "answers": ["small"], "foils": [{"word": "x"}, {"word": "y"}]}
OTHER = ONE | {"target": "up", "answers": ["down"]}


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("indent", [None, 0, 2])
def test_a_list_of_questions_over_any_lines_is_what_json_lines_are(suffix, indent, tmp_path):
    lines = written(tmp_path / "lines.jsonl", "\n".join(map(json.dumps, (ONE, OTHER))))
    path = written(tmp_path / f"q.{suffix}", json.dumps([ONE, OTHER], indent=indent))
    assert load_questions(path) == load_questions(lines)
    alone = written(tmp_path / f"one.{suffix}", json.dumps(ONE, indent=indent))
    assert load_questions(alone) == load_questions(lines)[:1]


def test_items_of_a_list_and_broken_lists_are_named(tmp_path):
    path = written(tmp_path / "q.json", json.dumps([ONE, OTHER | {"answers": []}], indent=1))
    with pytest.raises(InputError, match='q.json: item 2: "answers" is empty'):
        load_questions(path)
    with pytest.raises(InputError, match="q.json: this is not JSON: .*line 2"):
        load_questions(written(path, "[\n{]\n"))
    with pytest.raises(InputError, match="an empty list"):
        load_questions(written(path, "[]"))
    with pytest.raises(InputError, match="item 1: .*give an object with source"):
        load_questions(written(path, "[[1]]"))


def test_equal_questions_are_refused_with_both_places(tmp_path):
    turned = ONE | {"foils": ONE["foils"][::-1], "distance": "far"}
    path = written(tmp_path / "q.jsonl", "\n".join(map(json.dumps, (ONE, OTHER, turned))))
    with pytest.raises(InputError, match="q.jsonl: line 3 repeats the question of line 1, hot:cold"):
        load_questions(path)
    with pytest.raises(InputError, match="item 2 repeats the question of item 1"):
        load_questions(written(tmp_path / "q.json", json.dumps([ONE, ONE])))
    with pytest.raises(InputError, match="q.csv: line 4 repeats the question of line 2"):
        load_questions(questions(tmp_path, "hot,cold,big,small,x,y", "hot,cold,up,down,x,y", "hot,cold,big,small,y,x"))
    assert len(load_questions(questions(tmp_path, "hot,cold,big,small,x,y", "hot,cold,big,small,x,z"))) == 2


def test_equal_foils_are_refused_but_in_published_sets(tmp_path):
    with pytest.raises(InputError, match="q.csv: line 2: the foil 'x' is listed twice"):
        load_questions(questions(tmp_path, "hot,cold,big,small,x,x"))
    twice = ONE | {"foils": [{"word": "x"}, {"word": "x"}]}
    with pytest.raises(InputError, match="q.jsonl: line 1: the foil 'x' is listed twice"):
        load_questions(written(tmp_path / "q.jsonl", json.dumps(twice)))
    published = {"stem": ["a", "b"], "choice": [["c", "d"], ["c", "x"], ["c", "x"]], "answer": 0}
    assert load_questions(written(tmp_path / "p.jsonl", json.dumps(published)))[0].choices == ("d", "x", "x")


# Ratings


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("rating", ["99", "-3", "inf", "-inf", "nan", "0.99", "7.01", "", "high", "1e3"])
def test_ratings_off_the_scale_are_refused(rating, tmp_path):
    path = rated(tmp_path, mean_rating=rating)
    with pytest.raises(InputError, match=f"^{path}: line 2 has mean_rating"):
        load_ratings(path)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("n", ["2.5", "0", "-1", "inf", "nan", "", "many"])
def test_raters_are_whole(n, tmp_path):
    path = rated(tmp_path, num_ratings=n)
    with pytest.raises(InputError, match=f"^{path}: line 2 has num_ratings"):
        load_ratings(path)


def test_the_ends_of_the_scale_and_a_count_as_a_float_are_taken(tmp_path):
    for rating in ("1", "7", "1.0", "7.000"):
        assert load_ratings(rated(tmp_path, mean_rating=rating)).frame.rating[0] == float(rating)
    assert load_ratings(rated(tmp_path, num_ratings="10.0")).frame.n[0] == 10


def test_a_comparison_listed_twice_is_refused_in_either_order(tmp_path):
    turned = RATED | {
        "relation1": "2a", "relation2": "1a", "pair1_word1": "wheel", "pair1_word2": "car", "pair2_word1": "dog",
        "pair2_word2": "poodle",
    }  # fmt: skip
    for again in (RATED, turned):
        rows = "\n".join(",".join(cells.values()) for cells in (RATED, again))
        path = written(tmp_path / "r.csv", f"{','.join(RATED)}\n{rows}\n")
        with pytest.raises(InputError, match="lines 2 and 3 both rate"):
            load_ratings(path)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("rating", ["100.1", "-101", "1000", "nan", "inf", "1e1", ""])
def test_semeval_ratings_beyond_a_hundred_are_refused(rating, tmp_path):
    path = semeval(tmp_path, '1.0 "a:b"', f'{rating} "c:d"')
    with pytest.raises(InputError, match=f"^{path}: line 3 "):
        load_semeval(tmp_path)
    semeval(tmp_path, '100.0 "a:b"', '-100 "c:d"')
    assert load_semeval(tmp_path)["1a"].ratings == (100.0, -100.0)


def test_semeval_pairs_files_and_relations_that_come_twice_are_refused(tmp_path):
    semeval(tmp_path, '1.0 "a:b"', '2.0 "a:b"')
    with pytest.raises(InputError, match="lines 2 and 3 both rate a:b"):
        load_semeval(tmp_path)
    path = semeval(tmp_path, '1.0 "a:b"')
    written(tmp_path / "more" / path.name, path.read_bytes())
    with pytest.raises(InputError, match="GoldRatings-1a.txt and .*GoldRatings-1a.txt are both for relation 1a"):
        load_semeval(tmp_path)
    (tmp_path / "more" / path.name).unlink()
    definitions = tmp_path / "subcategories-definitions.txt"
    definitions.write_text(definitions.read_text() * 2)
    with pytest.raises(InputError, match="line 2 is for relation 1a, like an earlier line"):
        load_semeval(tmp_path)


# Paths

LOADERS = [load_relation, load_questions, load_ratings, function_vector.FunctionVector.load, HeadEffects.load]
LOADERS += [Composition.load, Folded.load]


@pytest.mark.slow(but=1)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__qualname__)
def test_pipes_devices_folders_and_nothing_are_refused_at_once(load, tmp_path):
    for suffix in ("json", "csv", "tsv", "jsonl", "safetensors"):
        pipe = tmp_path / f"pipe.{suffix}"
        os.mkfifo(pipe)
        with pytest.raises(InputError, match=rf"pipe.{suffix}.*a pipe or a device"):
            load(pipe)
        (tmp_path / f"folder.{suffix}").mkdir()
        for path, told in ((tmp_path / f"folder.{suffix}", "folder"), (tmp_path / f"none.{suffix}", "no such file")):
            with pytest.raises(InputError, match=told):
                load(str(path))
    with pytest.raises(InputError, match="a pipe or a device"):
        load("/dev/zero")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_pipes_in_a_folder_of_data_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / BATS)
    with pytest.raises(InputError, match="a pipe or a device"):
        load_bats(tmp_path)
    (semeval(tmp_path / "s", '1.0 "a:b"')).unlink()
    os.mkfifo(tmp_path / "s" / "GoldRatings-1a.txt")
    with pytest.raises(InputError, match="GoldRatings-1a.txt: this is a pipe"):
        load_semeval(tmp_path / "s")


@pytest.mark.parametrize("path", [3, b"r.json", ["a"], None, 2.5], ids=str)
def test_what_is_not_a_path_is_refused(path):
    with pytest.raises(InputError, match="is not a path; give a string or a pathlib.Path"):
        own_path(path)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize(
    "load", [*LOADERS, load_bats, load_lre, load_todd, load_semeval], ids=lambda load: load.__qualname__
)
def test_the_home_of_nobody_and_names_that_are_too_long_are_refused(load):
    with pytest.raises(InputError, match="'~nobody-of-this-name/r.json' is not a path that can be used"):
        load("~nobody-of-this-name/r.json")
    for path in ("nul\0.json", "x" * 300 + ".json"):
        with pytest.raises(InputError):
            load(path)


@pytest.mark.slow
def test_the_home_folder_is_found_by_every_loader(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    written(tmp_path / "r.csv", "a,b\n")
    assert load_relation("~/r.csv").words == ("a",)
    assert len(load_questions(f"~/{written(tmp_path / 'q.jsonl', json.dumps(ONE)).name}")) == 1
    written(tmp_path / "bats" / BATS, "andersen\twriter\n")
    assert list(load_bats("~/bats")) == ["e05-name-occupation"]
    semeval(tmp_path / "semeval", '1.0 "a:b"')
    assert list(load_semeval("~/semeval")) == ["1a"]
    rated(tmp_path / "ratings")
    assert len(load_ratings("~/ratings")) == len(load_ratings("~/ratings/relsim_mean_ratings.csv")) == 1
    fv = function_vector.FunctionVector(torch.ones(2), 0)
    fv.save("~/fv.safetensors")
    assert (tmp_path / "fv.safetensors").is_file()
    assert function_vector.FunctionVector.load("~/fv.safetensors").record == fv.record
    Composition("gain").save("~/how.safetensors")
    assert Composition.load("~/how.safetensors").weighting == "gain"


def test_a_comma_in_the_path_of_a_relation_is_part_of_it(tmp_path):
    path = written(tmp_path / "to, be" / "a,b.csv", "hot,cold\n")
    assert load_relation(str(path)) == load_relation(path) == Relation("a,b", [("hot", "cold")])


def test_json_lines_as_a_relation_say_how_to_make_one(tmp_path):
    lines = "\n".join(json.dumps({"input": f"w{i}", "output": "x"}) for i in range(3))
    for name in ("r.json", "r.jsonl"):
        with pytest.raises(InputError, match=rf"{name}: this file has JSON on every line; .*Put the lines in a list"):
            load_relation(written(tmp_path / name, lines))


@pytest.mark.slow
def test_bundled_data_holds_nothing_that_is_refused():
    assert len(load_questions()) > 400
    folder = resources.files("fv_lens.datasets") / "bundled" / "relations"
    assert all(load_relation(file) for file in folder.iterdir() if file.name.endswith(".json"))
