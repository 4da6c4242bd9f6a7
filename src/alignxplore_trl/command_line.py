"""Describe users, keep their descriptions up to date, and reply as they would like it."""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from alignxplore_trl.inference.signal_files import read_signals
from alignxplore_trl.run.errors import UserError, user_errors_exit
from alignxplore_trl.run.progress import say

if TYPE_CHECKING:
    from alignxplore_trl.inference.describer import Description
    from alignxplore_trl.inference.states import UserStates, Version

# Describes where no other model is named. It knows nothing but the simulated world.
SHIPPED_MODEL = Path(__file__).parents[2] / "assets" / "teacher"
_OPTIONS: Mapping[str, dict[str, Any]] = {
    "file": {"type": Path, "help": "a signal in each row: JSON lines, JSON, CSV or TSV"},
    "files": {"type": Path, "nargs": "*", "help": "the same; none: what is pending is read"},
    "name": {"help": "whose"},
    "names": {"nargs": "*", "help": "whose; none: all names are listed"},
    "post": {"help": "what is replied to"},
    "--user": {"help": "whose the rows are that don't say; of reply, whose description is told"},
    "--per-round": {"type": int, "default": 4, "help": "signals of one update [4]"},
    "--export": {"action": "store_true", "help": "all that is kept, as JSON"},
    "--states": {"type": Path, "default": Path("users.sqlite"), "help": "[users.sqlite]"},
    "--json": {"action": "store_true", "help": "one JSON object a line, with the reasoning"},
    "--description": {"help": "what is told of the user [nothing]"},
    "--prompts": {"default": "default", "help": "prompt folder [default]"},
    "--chat": {"action": "store_true", "help": "ask through the model's chat template"},
    "--max-new-tokens": {"type": int, "default": 512, "help": "longest reply [512]"},
    "--model": {"default": str(SHIPPED_MODEL), "help": "outputs/<run>/rl/model, or owner/name"},
    "--url": {"dest": "urls", "action": "append", "default": [], "help": "of a server that has it"},
    "--served-as": {"help": "its name at the server [--model]"},
    "--key-variable": {"help": "environment variable with the server's key"},
    "--vllm": {"action": "store_true", "help": "load it into vLLM"},
    "--device": {"help": "of a model in this process, such as cuda:1"},
    "--temperature": {"type": float, "help": "of sampling [the model's; of replies 0.7]"},
    "--seed": {"type": int, "default": 0, "help": "of sampling [0]"},
}
_WHERE = ("--url", "--served-as", "--key-variable", "--vllm", "--device")
_MODEL = ("--model", *_WHERE, "--temperature", "--seed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out one command; exit status 1 where somebody isn't described, 2 for a mistake.

    Args:
        arguments: the command line without the program's name; `None`: this process's own.
    """
    parser = argparse.ArgumentParser(prog="alignxplore", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for run, options in _COMMANDS.items():
        own = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        own.set_defaults(run=run)
        for option in options:
            own.add_argument(option, **_OPTIONS[option])
    asked = parser.parse_args(arguments)
    with user_errors_exit():
        try:
            asked.run(asked)
        except sqlite3.Error as error:
            raise UserError(f"{asked.states}: a file of user states: {error}") from error


def describe(asked: argparse.Namespace) -> None:
    """Describe each user of a file from all their signals at once; nothing is kept."""
    asked.states, asked.files, asked.per_round = Path(":memory:"), [asked.file], -1
    asked.user = asked.user or "user"
    update(asked)


def update(asked: argparse.Namespace) -> None:
    """Put down the signals of files, and read all that are pending."""
    files = [read_signals(file, asked.user) for file in asked.files]
    # Imported here: it imports torch, which a mistake in a file needn't wait for.
    from alignxplore_trl.inference.describer import NotDescribedError, PreferenceDescriber
    from alignxplore_trl.inference.states import UserStates, catch_up

    with UserStates(asked.states) as states:
        for user, own in (item for file in files for item in file.items()):
            new = states.add(user, own)
            if asked.run is update:
                say(f"{user}: {new} new signals, {len(own) - new} known ones")
        users = [user for user in states.users() if states.pending(user, 1)[1]]
        if not users:
            say("no signals are pending")
            return
        if asked.model == str(SHIPPED_MODEL):
            say(f"described by the shipped teacher, {SHIPPED_MODEL}; --model names a trained one")
        describer = PreferenceDescriber.from_pretrained(
            asked.model, asked.temperature, asked.seed, **_where(asked)
        )
        failed = False
        for user, version, outcome in catch_up(states, describer, users, asked.per_round):
            if isinstance(outcome, NotDescribedError):
                say(f"not described: {user}: {outcome}")
                failed = True
            else:
                _print(asked.json, user, version, outcome)
    if failed:
        raise SystemExit(1)


def show(asked: argparse.Namespace) -> None:
    """Show users' descriptions, or all that is kept of them."""
    with _existing(asked.states) as states:
        for user in asked.names:
            version = None if asked.export else _current(states, user)
            if version is None:
                print(json.dumps(states.export(user), ensure_ascii=False, indent=2))
            else:
                _print(asked.json, user, version.number, version.content)
        if not asked.names:
            print("\n".join(map(_plain, states.users())))


def forget(asked: argparse.Namespace) -> None:
    """Delete all that is kept of a user."""
    with _existing(asked.states) as states:
        states.forget(asked.name)
    say(f"{asked.name} is forgotten")


def reply(asked: argparse.Namespace) -> None:
    """Reply to a post as a user would like it, by any language model."""
    from alignxplore_trl.inference.describer import open_writer
    from alignxplore_trl.text.prompts import Prompts

    description = asked.description
    if asked.user is not None:
        with _existing(asked.states) as states:
            description = _current(states, asked.user).content.description
    temperature = 0.7 if asked.temperature is None else asked.temperature
    writer = open_writer(
        asked.model, chat=asked.chat, max_new_tokens=asked.max_new_tokens, top_p=0.95, top_k=None,
        temperature=temperature, **_where(asked),
    )  # fmt: skip
    prompt = Prompts(asked.prompts).render("reply", post=asked.post, description=description)
    [[written]] = writer.write([prompt], seed=asked.seed)
    # Of a model that thinks, what it wrote behind its thoughts.
    text = written.text.rpartition("</think>")[2].strip() if written else ""
    if not text:
        raise UserError(f"{asked.model} gave no reply {dict(writer.counts)}")
    print(_plain(text))


_COMMANDS: Mapping[Callable[[argparse.Namespace], None], Sequence[str]] = {
    describe: ("file", "--user", "--json", *_MODEL),
    update: ("files", "--user", "--per-round", "--states", "--json", *_MODEL),
    show: ("names", "--export", "--states", "--json"),
    forget: ("name", "--states"),
    reply: ("post", "--user", "--description", "--states", "--prompts", "--chat",
            "--max-new-tokens", *_MODEL),
}  # fmt: skip


def _where(asked: argparse.Namespace) -> dict[str, Any]:
    names = ("urls", *(option[2:].replace("-", "_") for option in _WHERE[1:]))
    return {name: getattr(asked, name) for name in names}


def _existing(path: Path) -> UserStates:
    from alignxplore_trl.inference.states import UserStates

    if not path.is_file():
        raise UserError(f"--states: found no file {path}; alignxplore update makes it")
    return UserStates(path)


def _current(states: UserStates, user: str) -> Version:
    states.export(user)  # Refuses a user of whom nothing is kept.
    if not (versions := states.versions(user)):
        raise UserError(f"{user}: no signal has been read yet: alignxplore update")
    return versions[-1]


def _print(as_json: bool, user: str, version: int, written: Description) -> None:
    if as_json:
        values = {"user": user, "version": version, **msgspec.structs.asdict(written)}
        print(json.dumps(values, ensure_ascii=False))
        return
    print(_plain(f"{user}: {written.description}"))
    if written.dropped_signals or written.shortened_texts:
        say(
            f"{user}: the oldest {written.dropped_signals} signals were left out of the prompt, "
            f"and {written.shortened_texts} texts shortened"
        )


def _plain(text: str) -> str:
    """A text for a terminal, to which control characters would be commands."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


if __name__ == "__main__":
    main()
