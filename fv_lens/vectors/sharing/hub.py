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
    with explained(repo, revision):
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
    with explained(repo, revision):
        record = Path(hf_hub_download(repo, RECORD, revision=revision, token=token))
        files = [*LibraryRecord.read(record).files, RECORD, CARD]
        # By commit: all files are of one state, though somebody commits in between.
        return Path(snapshot_download(repo, revision=record.parent.name, token=token, allow_patterns=files))


def fetched_vector(repo: str, name: str, revision: str | None = None, token: Token = None) -> Path:
    """The file of one vector of a library from the hub, in the hub's cache."""
    with explained(repo, revision):
        record = Path(hf_hub_download(repo, RECORD, revision=revision, token=token))
        file = LibraryRecord.read(record).file_of(name)
        return Path(hf_hub_download(repo, file, revision=record.parent.name, token=token))


@contextmanager
def explained(repo: str, revision: str | None) -> Iterator[None]:
    """Errors of the hub's client as an InputError of one line."""
    where = f"{repo!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(f"{where} is gated: ask for access on its page, then log in with `hf auth login`.") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"The hub has no repository {repo!r} that you may see. Check the name; for a private one, log in with "
            "`hf auth login` or give a token."
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{repo!r} has no revision {revision!r}; give a branch, a tag or a commit of it.") from None
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{where} is not in the cache, and the hub cannot be reached ({_cause(error)}). Connect, or check "
            "HF_HUB_OFFLINE and HF_ENDPOINT."
        ) from None
    except errors.EntryNotFoundError:
        raise InputError(f"{where} is no library of fv_lens: it has no {RECORD}, or a file is missing.") from None
    except errors.HFValidationError as error:
        raise InputError(f"{repo!r} is not a name on the hub: {_line(error)} Give 'org/name'.") from None
    except errors.OfflineModeIsEnabled:
        raise InputError("The hub is switched off by HF_HUB_OFFLINE; unset it to reach the hub.") from None
    except errors.LocalTokenNotFoundError:
        raise InputError("No token is stored for the hub; log in with `hf auth login`, or give a token.") from None
    except errors.HfHubHTTPError as error:
        status, reason = error.response.status_code, _line(error.server_message or error)
        if status in (401, 403):
            raise InputError(
                f"The hub refuses the token for {where} ({status}: {reason}). Log in with `hf auth login`, with a "
                "token that may do this."
            ) from None
        raise InputError(f"The hub answers for {where} with {status}: {reason}") from None
    except RuntimeError as error:  # of an upload
        if not isinstance(error.__cause__, errors.HTTPError):  # type: ignore[attr-defined]
            raise
        raise InputError(f"The hub cannot be reached for {where}: {_cause(error)}. Check the network.") from None
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # of its HTTP library, for what was not answered
        raise InputError(f"The hub cannot be reached for {where}: {_line(error)} Check the network.") from None


def _cause(error: BaseException) -> str:
    """What a missing entry of the cache was caused by."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _line(error).rstrip(".")


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
