"""The card of a trained policy, and the way of its folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from httpx import HTTPError
from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import StageFolder

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_TRAINED_BY = {
    "cold_start": "supervised training on completions of a teacher that a judge verified",
    "rl": "GRPO, rewarded for descriptions that tell which of two replies the user preferred",
}
_MENDED_BY = {
    401: "; the Hub doesn't know this token: `hf auth login`, or set HF_TOKEN",
    403: "; this token may not write there: make one with write permission, or name a repository "
    "of your own",
}


def write_card(folder: StageFolder, summary: dict[str, Any]) -> None:
    """Write README.md into the `model/` of a training, from what its folder says.

    Args:
        folder: of a cold start or of RL.
        summary: its figures.
    """
    config = yaml.safe_load((folder.path / "config.yaml").read_text("utf-8"))
    lines = (folder.path / "environment.txt").read_text("utf-8").splitlines()
    environment, command = lines[:-1], lines[-1].removeprefix("command: ")
    backbone, weights = str(config["model.backbone"]), str(config["output.weights"])
    data = ModelCardData(
        # A folder of this machine is nobody else's base.
        base_model=None if Path(backbone).is_dir() else backbone,
        library_name="peft" if weights == "adapters" else "transformers",
        pipeline_tag="text-generation",
        tags=["alignxplore", "trl", {"cold_start": "sft", "rl": "grpo"}[folder.path.name]],
    )
    card = ModelCard.from_template(
        data,
        template_str=_TEMPLATE.read_text("utf-8"),
        name=f"{folder.path.parent.name}, {folder.path.name}",
        trained_by=_TRAINED_BY[folder.path.name],
        weights=weights,
        command=command,
        figures={k: f"{v:,.4g}" for k, v in summary.items() if isinstance(v, int | float)},
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True).strip(),
        environment="\n".join(environment),
    )
    (folder.model / "README.md").write_text(str(card), encoding="utf-8")


def publish(folder: StageFolder, repository: str, endpoint: str | None = None) -> str:
    """Send the `model/` of a finished training to a private repository on the Hub, in one commit.

    The repository is made if it isn't there; one that is public is refused, since what was meant
    for few would be read by all.

    Args:
        folder: of a cold start or of RL.
        repository: owner/name.
        endpoint: address of the Hub; `None`: HF_ENDPOINT, or else the public one.

    Returns:
        The address of the commit.

    Raises:
        UserError: the Hub can't be reached or refuses; the folder stays as it is.
    """
    api = HfApi(endpoint=endpoint)
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        if not api.repo_info(repository).private:
            raise UserError(
                f"output.push_to_hub: {repository} is there already, and public; make it private "
                "in its settings, or name another one"
            )
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder.model,
            commit_message=f"{folder.path.parent.name}, {folder.path.name}",
        )
    except (HTTPError, OSError, ValueError) as error:
        raise UserError(
            f"output.push_to_hub: {repository} could not be sent: {_reason(error)}. {folder.model} "
            "is complete; the same command sends it"
        ) from error
    return str(commit.commit_url)


def _reason(error: Exception) -> str:
    """Why it failed, in one line that can't hold the token."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        said = " ".join((error.server_message or error.response.reason_phrase).split())
        return f"status {status}, {said}{_MENDED_BY.get(status, '')}"
    if isinstance(error, HTTPError):  # Its words may quote the headers, and with them the token.
        return f"the Hub can't be reached ({type(error).__name__})"
    return " ".join(str(error).split())
