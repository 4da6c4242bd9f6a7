"""The card of a trained policy, and the way of its folder to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from httpx import HTTPError
from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import StageFolder

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_TRAINED_BY = {
    "cold_start": ("sft", "supervised training on a teacher's completions that a judge verified"),
    "rl": ("grpo", "GRPO, rewarded for descriptions that tell which reply the user preferred"),
}


def write_card(folder: StageFolder, summary: Mapping[str, object]) -> None:
    """Write README.md into the `model/` of a cold start or of RL, from what its folder says.

    Args:
        folder: of the training.
        summary: its figures.
    """
    config = yaml.safe_load((folder.path / "config.yaml").read_text("utf-8"))
    *environment, command = (folder.path / "environment.txt").read_text("utf-8").splitlines()
    backbone, weights = str(config["model.backbone"]), str(config["output.weights"])
    tag, trained_by = _TRAINED_BY[folder.path.name]
    data = ModelCardData(
        # A folder of this machine is nobody else's base.
        base_model=None if Path(backbone).is_dir() else backbone,
        library_name="peft" if weights == "adapters" else "transformers",
        pipeline_tag="text-generation",
        tags=["alignxplore", "trl", tag],
    )
    card = ModelCard.from_template(
        data,
        template_str=_TEMPLATE.read_text("utf-8"),
        name=f"{folder.path.parent.name}, {folder.path.name}",
        trained_by=trained_by,
        weights=weights,
        command=command.removeprefix("command: "),
        figures={k: f"{v:,.4g}" for k, v in summary.items() if isinstance(v, int | float)},
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True).strip(),
        environment="\n".join(environment),
    )
    (folder.model / "README.md").write_text(str(card), encoding="utf-8")


def publish(folder: StageFolder, repository: str, endpoint: str | None = None) -> str:
    """Send the `model/` of a training to a private repository on the Hub, in one commit.

    The repository is made if it isn't there. One that is public is refused, since what was meant
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
            raise ValueError("it is there already, and public; make it private in its settings")
        message = f"{folder.path.parent.name}, {folder.path.name}"
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder.model, commit_message=message
        )
    except (HTTPError, OSError, ValueError) as error:
        # What httpx says may quote the headers that it could not send, and so the token.
        is_quotable = isinstance(error, HfHubHTTPError) or not isinstance(error, HTTPError)
        reason = " ".join(str(error).split()) if is_quotable else type(error).__name__
        raise UserError(
            f"output.push_to_hub: {repository} could not be sent: {reason}; see HF_TOKEN and `hf "
            f"auth login`. {folder.model} is complete, and the same command sends it"
        ) from error
    return str(commit.commit_url)
