"""Libraries on the Hugging Face hub, through its own client: its cache, its tokens, its offline mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors, hf_hub_download, snapshot_download

from ...ground.errors import InputError
from .record import CARD, RECORD, LibraryRecord

Token = str | bool | None


def push(
    folder: Path, repo: str, message: str, private: bool = False, revision: str | None = None, token: Token = None
) -> str:
    """Put the library of a folder on the hub, see `Library.push_to_hub`; returns the commit's address.

    One commit holds everything, so that a connection that breaks leaves the repository as it was.
    """
    api = HfApi(token=token, library_name="fv_lens")
    with _hub_errors(repo, revision):
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        files = {file.name: file for file in sorted(folder.iterdir())}
        there = api.list_repo_files(repo, revision=revision)
        gone = [name for name in there if name.endswith(".safetensors") and name not in files]
        commit = api.create_commit(
            repo,
            [
                *(CommitOperationAdd(name, file) for name, file in files.items()),
                *(CommitOperationDelete(name) for name in gone),
            ],
            commit_message=message,
            revision=revision,
        )
        return str(commit.commit_url)


def fetched(repo: str, revision: str | None = None, token: Token = None) -> Path:
    """The folder of a library from the hub, in the hub's cache: its vectors, its record and its card, nothing else."""
    with _hub_errors(repo, revision):
        record, commit = _record(repo, revision, token)
        return Path(snapshot_download(repo, revision=commit, token=token, allow_patterns=[*record.files, RECORD, CARD]))


def fetched_vector(repo: str, name: str, revision: str | None = None, token: Token = None) -> Path:
    """The file of one vector of a library from the hub, in the hub's cache."""
    with _hub_errors(repo, revision):
        record, commit = _record(repo, revision, token)
        return Path(hf_hub_download(repo, record.file_of(name), revision=commit, token=token))


def _record(repo: str, revision: str | None, token: Token) -> tuple[LibraryRecord, str]:
    """The record of a library, and its commit: what is fetched by that is of one state, whoever commits in between."""
    path = Path(hf_hub_download(repo, RECORD, revision=revision, token=token))
    return LibraryRecord.read(path), path.parent.name


# Errors of the hub's client -> what is said of them; the first that fits, so a kind comes before those it is one of.
MESSAGES: list[tuple[type[Exception], str]] = [
    (errors.GatedRepoError, "{where} is gated: ask for access on its page, then log in with `hf auth login`."),
    (
        errors.RepositoryNotFoundError,
        "The hub has no repository {repo!r} that you may see. Check the name; for a private one, log in with "
        "`hf auth login` or give a token.",
    ),
    (
        errors.RevisionNotFoundError,
        "{repo!r} has no revision {revision!r}; give a branch, a tag or a commit of it.",
    ),
    (
        errors.LocalEntryNotFoundError,
        "{where} is not in the cache, and the hub cannot be reached ({cause}). Connect, or check HF_HUB_OFFLINE and "
        "HF_ENDPOINT.",
    ),
    (errors.EntryNotFoundError, f"{{where}} is no library of fv_lens: it has no {RECORD}, or a file is missing."),
    (errors.HFValidationError, "{repo!r} is not a name on the hub: {error} Give 'org/name'."),
    (errors.OfflineModeIsEnabled, "The hub is switched off by HF_HUB_OFFLINE; unset it to reach the hub."),
    (
        errors.LocalTokenNotFoundError,
        "No token is stored for the hub; log in with `hf auth login`, or give a token.",
    ),
]
TRANSPORT: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of the client's HTTP library


@contextmanager
def _hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Errors of the hub's client as an InputError of one line."""
    where = f"{repo!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        yield
    except Exception as error:
        parts = {"where": where, "repo": repo, "revision": revision, "cause": _cause(error), "error": _line(error)}
        message = next((text.format(**parts) for kind, text in MESSAGES if isinstance(error, kind)), None)
        if message is None and isinstance(error, errors.HfHubHTTPError):
            message = _answer(error, where)
        elif message is None and (isinstance(error, TRANSPORT) or isinstance(error.__cause__, TRANSPORT)):
            message = f"The hub cannot be reached for {where}: {_cause(error)}. Check the network."
        if message is None:
            raise
        raise InputError(message) from None


def _answer(error: errors.HfHubHTTPError, where: str) -> str:
    """What an answer of the hub that is an error means."""
    status, reason = error.response.status_code, _line(error.server_message or error)
    if status in (401, 403):
        return (
            f"The hub refuses the token for {where} ({status}: {reason}). Log in with `hf auth login`, with a token "
            "that may do this."
        )
    return f"The hub answers for {where} with {status}: {reason}"


def _cause(error: BaseException) -> str:
    """The error that an error was caused by, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _line(error).rstrip(".")


def _line(error: BaseException | str) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
