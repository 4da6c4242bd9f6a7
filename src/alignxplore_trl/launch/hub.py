"""Data sets and models of one's own on the Hugging Face Hub: checked first, sent in one commit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from httpx import HTTPError
from huggingface_hub import CommitOperationAdd, HfApi, get_token, is_offline_mode
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    OIDCError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from alignxplore_trl.run.errors import UserError

_NEW_TOKEN = (
    "make one with write permission at https://huggingface.co/settings/tokens, and set HF_TOKEN to "
    "it, or give `hf auth login`"
)
_MENDED_BY: Mapping[int, str] = {
    401: f"the Hub doesn't know this token; {_NEW_TOKEN}",
    403: f"this token may not write there; {_NEW_TOKEN}, or name a repository of your own",
}


def check_hub(key: str, repository: str) -> list[str]:
    """Problems that would keep something from the Hub, found before anything is paid for.

    Nothing is asked of the Hub: whether the token may write there shows when it is used.

    Args:
        key: of the configuration, which names the repository.
        repository: owner/name.
    """
    problems = []
    if not _is_repository(repository):
        problems.append(
            f"{key}: {repository!r} found, expected owner/name, of letters, digits, '-', '_' and "
            "'.', or null"
        )
    if is_offline_mode():
        problems.append(
            f"{key}: HF_HUB_OFFLINE is set, so that nothing can be sent; unset it, or give null"
        )
    elif not _has_token():
        problems.append(f"{key}: found no token of the Hub; {_NEW_TOKEN}, or give null")
    return problems


def push(
    key: str,
    kind: Literal["dataset", "model"],
    repository: str,
    files: Mapping[str, Path],
    private: bool = True,
    endpoint: str | None = None,
) -> str:
    """Send files to a repository on the Hub, which is made if it isn't there; return its address.

    All files arrive in one commit, or none does.

    Args:
        key: of the configuration, which names the repository.
        kind: what the repository holds.
        repository: owner/name.
        files: path in the repository -> file; the card's path there is README.md.
        private: make the repository private. One that is already there and is public is refused,
            since what was meant for few would be read by all.
        endpoint: address of the Hub; `None` takes HF_ENDPOINT, or else the public one.

    Raises:
        UserError: the Hub can't be reached, or refuses; the files stay where they are.
    """
    api = HfApi(endpoint=endpoint)
    try:
        url = api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        public = private and api.repo_info(repository, repo_type=kind).private is False
        if not public:
            api.create_commit(
                repository,
                [CommitOperationAdd(path, file) for path, file in files.items()],
                commit_message=f"Add the {kind} and its card",
                repo_type=kind,
            )
    # A README.md that the Hub refuses is a ValueError; an answer that isn't the Hub's, any of both.
    except (HTTPError, OSError, ValueError, LookupError) as error:
        raise UserError(_failure(key, repository, files, _reason(error))) from error
    if public:
        reason = "it is there already, and public; make it private in its settings, or name another"
        raise UserError(_failure(key, repository, files, reason))
    return str(url)


def _is_repository(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def _has_token() -> bool:
    try:
        return get_token() is not None
    except OIDCError:  # A service that gives out tokens, and doesn't.
        return False


def _failure(key: str, repository: str, files: Mapping[str, Path], reason: str) -> str:
    folder = os.path.commonpath([file.absolute().parent for file in files.values()])
    return (
        f"{key}: {repository} could not be sent to the Hub: {reason}. The local files are "
        f"complete, in {folder}"
    )


def _reason(error: Exception) -> str:
    """Why it failed, in one line that can't hold the token."""
    match error:
        case HfHubHTTPError():
            status = error.response.status_code
            said = " ".join((error.server_message or error.response.reason_phrase).split())
            mended_by = _MENDED_BY.get(status)
            return f"status {status}, {said}" + (f": {mended_by}" if mended_by else "")
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set; unset it"
        case LocalTokenNotFoundError():
            return f"found no token; {_NEW_TOKEN}"
        case HTTPError():
            # Its words may quote the headers that it could not send, and the token is one of them.
            return f"it can't be reached ({type(error).__name__})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
