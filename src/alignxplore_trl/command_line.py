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
    from alignxplore_trl.inference.describer import Description, PreferenceDescriber
    from alignxplore_trl.inference.states import UserStates

# Describes where no other model is named. It knows nothing but the simulated world.
SHIPPED_MODEL = Path(__file__).parents[2] / "assets" / "teacher"
_WHERE = ("urls", "served_as", "key_variable", "vllm", "device")
_OPTIONS: Mapping[str, dict[str, Any]] = {
    "file": {"type": Path, "help": "a signal in each row: JSON lines, JSON, CSV or TSV"},
    "name": {"help": "whose"},
    "post": {"help": "what is replied to"},
    "--user": {"help": "whose the rows are that don't say; whose description is told"},
    "--per-round": {"type": int, "default": 4, "help": "signals of one update [4]"},
    "--export": {"action": "store_true", "help": "all that is kept of the user, as JSON"},
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
_MODEL = ("--model", "--url", "--served-as", "--key-variable", "--vllm", "--device",
          "--temperature", "--seed")  # fmt: skip


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
            name = option.rstrip("?")
            own.add_argument(name, **_OPTIONS[name], **({"nargs": "?"} if name != option else {}))
    asked = parser.parse_args(arguments)
    with user_errors_exit():
        try:
            failed = asked.run(asked)
        except sqlite3.Error as error:
            raise UserError(f"{asked.states}: a file of user states: {error}") from error
    for user, reason in failed.items():
        say(f"not described: {user}: {reason}")
    if failed:
        raise SystemExit(1)


def describe(asked: argparse.Namespace) -> Mapping[str, Exception]:
    """Describe each user of a file from all their signals at once; nothing is kept."""
    by_user = read_signals(asked.file, asked.user or "user")
    requests = [(None, [signal for _, signal in own]) for own in by_user.values()]
    outcomes = dict(zip(by_user, _describer(asked).write(requests), strict=True))
    for user, outcome in outcomes.items():
        if not isinstance(outcome, Exception):
            _print(asked, {"user": user}, outcome)
    return {user: own for user, own in outcomes.items() if isinstance(own, Exception)}


def update(asked: argparse.Namespace) -> Mapping[str, Exception]:
    """Put down the signals of a file, if one is given, and read all that are pending."""
    by_user = read_signals(asked.file, asked.user) if asked.file else {}
    from alignxplore_trl.inference.states import catch_up

    with _states(asked, is_new=True) as states:
        for user, own in by_user.items():
            new = states.add(user, own)
            say(f"{user}: {new} new signals, {len(own) - new} known ones")
        users = list(by_user) or ([asked.user] if asked.user else states.users())
        if not any(states.pending(user, 1)[1] for user in users):
            say("no signals are pending")
            return {}
        return catch_up(
            states,
            _describer(asked),
            users,
            asked.per_round,
            lambda own: _print(asked, {"user": own.user, "version": own.number}, own.content),
        )


def show(asked: argparse.Namespace) -> Mapping[str, Exception]:
    """Show a user's description or all that is kept of them; without a name, list all users."""
    with _states(asked) as states:
        if asked.name is None:
            print("\n".join(map(_plain, states.users())))
            return {}
        kept, versions = states.export(asked.name), states.versions(asked.name)
    if asked.export:
        print(json.dumps(kept, ensure_ascii=False, indent=2))
    elif versions:
        _print(asked, {"user": asked.name, "version": len(versions)}, versions[-1].content)
    else:
        raise UserError(f"{asked.name}: no signal has been read yet: alignxplore update")
    return {}


def forget(asked: argparse.Namespace) -> Mapping[str, Exception]:
    """Delete all that is kept of a user."""
    with _states(asked) as states:
        states.forget(asked.name)
    say(f"{asked.name} is forgotten")
    return {}


def reply(asked: argparse.Namespace) -> Mapping[str, Exception]:
    """Reply to a post as a user would like it, by any language model."""
    description = asked.description
    if asked.user is not None:
        with _states(asked) as states:
            states.export(asked.user)
            description = next(
                (v.content.description for v in states.versions(asked.user)[-1:]), None
            )
    from alignxplore_trl.inference.describer import open_writer, reply_to
    from alignxplore_trl.text.prompts import Prompts

    temperature = 0.7 if asked.temperature is None else asked.temperature
    writer = open_writer(
        asked.model, chat=asked.chat, max_new_tokens=asked.max_new_tokens, top_p=0.95, top_k=None,
        temperature=temperature, **_where(asked),
    )  # fmt: skip
    print(_plain(reply_to(writer, Prompts(asked.prompts), asked.post, description, asked.seed)))
    return {}


_COMMANDS: Mapping[Callable[[argparse.Namespace], Mapping[str, Exception]], Sequence[str]] = {
    describe: ("file", "--user", "--json", *_MODEL),
    update: ("file?", "--user", "--per-round", "--states", "--json", *_MODEL),
    show: ("name?", "--export", "--states", "--json"),
    forget: ("name", "--states"),
    reply: ("post", "--user", "--description", "--states", "--prompts", "--chat",
            "--max-new-tokens", *_MODEL),
}  # fmt: skip


def _describer(asked: argparse.Namespace) -> PreferenceDescriber:
    # Imported here: it imports torch, which a mistake in a file needn't wait for.
    from alignxplore_trl.inference.describer import PreferenceDescriber

    if asked.model == str(SHIPPED_MODEL):
        say(f"described by the shipped teacher, {SHIPPED_MODEL}; --model names a trained one")
    return PreferenceDescriber.from_pretrained(
        asked.model, temperature=asked.temperature, seed=asked.seed, **_where(asked)
    )


def _where(asked: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in _WHERE}


def _states(asked: argparse.Namespace, is_new: bool = False) -> UserStates:
    if not is_new and not asked.states.is_file():
        raise UserError(f"--states: found no file {asked.states}; alignxplore update makes it")
    from alignxplore_trl.inference.states import UserStates

    return UserStates(asked.states)


def _print(asked: argparse.Namespace, about: Mapping[str, Any], written: Description) -> None:
    if asked.json:
        values = {**about, **msgspec.structs.asdict(written)}
        print(json.dumps(values, ensure_ascii=False))
        return
    print(_plain(f"{', version '.join(map(str, about.values()))}: {written.description}"))
    if written.dropped_signals or written.shortened_texts:
        say(
            f"{about['user']}: {written.dropped_signals} signals, the oldest, were left out of the "
            f"prompt, and {written.shortened_texts} texts shortened"
        )


def _plain(text: str) -> str:
    """A text for a terminal, to which control characters would be commands."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


if __name__ == "__main__":
    main()
