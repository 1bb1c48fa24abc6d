"""Libraries on the hub, by its real client and a server on localhost: what comes back, and what is said of failures."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants

from fv_lens.ground.errors import InputError
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.library import Library

from .. import tiny
from . import hub_server
from .made import library_of, scores_of, vectors_of

ROOT = Path(__file__).parents[2]
REPO = "org/relations"


@pytest.fixture(scope="module")
def hub():
    with hub_server.running() as server:
        yield server


@pytest.fixture(autouse=True)
def client(hub, monkeypatch, tmp_path):
    """The hub's client in this process, with an empty cache and the owner's token."""
    hub.repositories.clear()
    hub.requests.clear()
    hub.unknown.clear()
    hub.cut_after = None
    settings = {
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False,
        "HF_TOKEN_PATH": str(tmp_path / "no token"),
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    wait = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: wait(min(seconds, 0.01)))  # between the client's attempts
    huggingface_hub.close_session()
    yield
    assert not hub.unknown  # the server knows every request that was made


@pytest.fixture
def altered():
    """A model of the same name, of which one weight is another."""
    model = tiny.build("llama")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    return model


def same(one: Library, other: Library) -> bool:
    return list(one) == list(other) and all(
        one[name].record == other[name].record and one[name].vector.equal(other[name].vector) for name in one
    )


def test_a_library_comes_back_as_it_was_pushed(llama, hub):
    library = library_of(llama, "abc").with_scores(scores_of("abc"))
    url = library.push_to_hub(REPO, llama, licence="mit")
    back = Library.from_hub(REPO, model=llama)
    assert same(back, library) and back.scores.equals(library.scores)
    assert back.identity is not None and back.identity.name == llama.cfg.model_name
    assert url.startswith(f"{hub.address}/{REPO}/commit/") and len(hub.repositories[REPO].commits) == 2


def test_one_vector_is_fetched_alone(llama, hub):
    library_of(llama, "abc").push_to_hub(REPO)
    hub.requests.clear()
    fv = FunctionVector.from_hub(REPO, "b")
    assert fv.vector.equal(vectors_of(llama, "b")["b"].vector)
    fetched = {request.split("/")[-1] for request in hub.requests if request.startswith("GET") and "resolve" in request}
    assert fetched == {"library.json", "b.safetensors"}
    with pytest.raises(InputError, match=r"^The library has no vector 'z'; it has a, b, c\.$"):
        FunctionVector.from_hub(REPO, "z")


def test_another_push_replaces_what_was_there_and_older_revisions_stay(llama, hub):
    first = library_of(llama, "ab")
    commit = first.push_to_hub(REPO).split("/")[-1]
    second = Library({"b": replace(first["b"], vector=2 * first["b"].vector), "c": vectors_of(llama, "c")["c"]})
    second.push_to_hub(REPO)
    assert same(Library.from_hub(REPO), second) and same(Library.from_hub(REPO, revision=commit), first)
    newest = hub.repositories[REPO].commits[hub.repositories[REPO].branches["main"]]
    assert newest.keys() == {".gitattributes", "README.md", "library.json", "b.safetensors", "c.safetensors"}


def test_a_branch_is_made_and_the_main_one_stays(llama, hub):
    one, other = library_of(llama, "a"), library_of(llama, "b")
    one.push_to_hub(REPO)
    other.push_to_hub(REPO, revision="trial")
    assert same(Library.from_hub(REPO), one) and same(Library.from_hub(REPO, revision="trial"), other)


def test_files_that_are_not_the_librarys_are_not_fetched(llama, hub):
    """Such as the weights of a model in the same repository."""
    library_of(llama, "a").push_to_hub(REPO)
    tree = hub.repositories[REPO].commits[hub.repositories[REPO].branches["main"]]
    tree["model.safetensors"] = b"weights"
    Library.from_hub(REPO)
    assert not any("model.safetensors" in request for request in hub.requests)


def test_the_card_has_the_hubs_metadata(llama, hub):
    library = library_of(llama, "ab").with_scores(scores_of("ab"))
    library.push_to_hub(REPO, licence="apache-2.0", base_model="org/base")
    card = hub.repositories[REPO].commits[hub.repositories[REPO].branches["main"]]["README.md"].decode()
    about = yaml.safe_load(card.split("---\n")[1])
    assert (about["license"], about["base_model"], about["library_name"]) == ("apache-2.0", "org/base", "fv_lens")
    results = about["model-index"][0]["results"]
    assert [result["dataset"]["type"] for result in results] == ["a", "b"]
    assert [result["metrics"][0]["value"] for result in results] == [0.75, 0.75]
    assert f'Library.from_hub("{REPO}", model=model)' in card


def line_of(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


def test_what_is_not_there_is_said_in_one_line(llama, hub):
    library_of(llama, "a").push_to_hub(REPO)
    for name, revision, expected in (
        ("org/none", None, "The hub has no repository 'org/none' that you may see. Check the name"),
        (REPO, "v9", "'org/relations' has no revision 'v9'; give a branch, a tag or a commit of it."),
        ("not a name", None, "'not a name' is not a name on the hub:"),
    ):
        for fetch in (Library.from_hub, lambda repo, **of: FunctionVector.from_hub(repo, "a", **of)):
            with pytest.raises(InputError) as error:
                fetch(name, revision=revision)
            assert line_of(error).startswith(expected)
    hub.repositories["org/model"] = hub_server.Repository({"1" * 40: {"config.json": b"{}"}}, {"main": "1" * 40})
    with pytest.raises(InputError, match=r"^'org/model' is no library of fv_lens: it has no library.json"):
        Library.from_hub("org/model")


def test_a_token_that_may_not_is_named(llama, hub, monkeypatch):
    library = library_of(llama, "a")
    library.push_to_hub(REPO, private=True)
    with pytest.raises(InputError, match=r"refuses the token for 'org/other' \(403: .*hf auth login") as error:
        library.push_to_hub("org/other", token="hf_of_a_stranger")
    line_of(error)
    with pytest.raises(InputError, match="refuses the token for 'org/relations' .401"):
        Library.from_hub(REPO, token="hf_of_a_stranger")
    with pytest.raises(InputError, match="no repository 'org/relations' that you may see.*give a token"):
        Library.from_hub(REPO, token=False)
    assert same(Library.from_hub(REPO, token=hub_server.TOKEN), library)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="refuses the token for 'org/other'|No token is stored for the hub"):
        library.push_to_hub("org/other")


@pytest.mark.parametrize("request_number", range(8))
def test_a_connection_that_breaks_leaves_the_repository_as_it_was(llama, hub, request_number):
    first = library_of(llama, "a")
    first.push_to_hub(REPO)
    second = Library({"a": 2.0 * first["a"]})
    hub.cut_after = request_number
    try:
        second.push_to_hub(REPO)
        broke = False
    except InputError as error:
        broke = True
        assert "\n" not in str(error) and REPO in str(error)
    hub.cut_after = None
    kept = Library.from_hub(REPO)
    assert kept["a"].vector.equal((first if broke else second)["a"].vector)
    assert broke or request_number > 4


@pytest.mark.parametrize("request_number", range(6))
def test_a_download_that_breaks_is_one_line_and_what_is_in_the_cache_is_used(llama, hub, monkeypatch, request_number):
    library = library_of(llama, "ab")
    library.push_to_hub(REPO)
    hub.cut_after = request_number
    with pytest.raises(InputError) as error:
        Library.from_hub(REPO)
    assert REPO in line_of(error)
    hub.cut_after = None
    assert same(Library.from_hub(REPO), library)
    unreachable = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", unreachable)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", unreachable + "/{repo_id}/resolve/{revision}/{filename}"
    )
    assert same(Library.from_hub(REPO), library)


def test_another_model_is_refused(llama, hub, altered):
    library_of(llama, "a").push_to_hub(REPO, llama)
    with pytest.raises(InputError, match="^The library was made on other weights than those of") as error:
        Library.from_hub(REPO, model=altered)
    line_of(error)


def in_another_process(hub, folder: Path, code: str, **environment: str) -> str:
    settings = {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **settings, **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow(but=0)
def test_49_vectors_come_back_in_a_fresh_process_and_offline_from_the_cache(llama, hub, tmp_path):
    names = [f"r{i}" for i in range(49)]
    library = library_of(llama, names)
    library.push_to_hub(REPO, llama, licence="mit")
    code = f"""
        import hashlib, json
        import fv_lens
        library = fv_lens.Library.from_hub({REPO!r})
        numbers = {{name: fv.vector.numpy().tobytes() for name, fv in library.items()}}
        print(json.dumps({{name: hashlib.sha256(of).hexdigest() for name, of in numbers.items()}}))
        try:
            fv_lens.Library.from_hub("org/never-seen")
        except fv_lens.InputError as error:
            print(error)
    """
    there, missing = in_another_process(hub, tmp_path, code).splitlines()
    asked = len(hub.requests)
    offline, unreachable = in_another_process(hub, tmp_path, code, HF_HUB_OFFLINE="1").splitlines()
    expected = {name: hashlib.sha256(fv.vector.numpy().tobytes()).hexdigest() for name, fv in library.items()}
    assert json.loads(there) == json.loads(offline) == expected and len(expected) == 49
    assert len(hub.requests) == asked
    assert missing.startswith("The hub has no repository 'org/never-seen' that you may see.")
    assert unreachable.startswith("'org/never-seen' is not in the cache, and the hub cannot be reached")
