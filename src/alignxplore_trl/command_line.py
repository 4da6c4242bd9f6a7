"""Describe users, keep their descriptions up to date, and reply as they would like it."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from alignxplore_trl.cases import Signal
from alignxplore_trl.data.rows import Problems, Row, convert, read_rows
from alignxplore_trl.inference.describer import Description, NotDescribedError, PreferenceDescriber
from alignxplore_trl.inference.states import UserStates, catch_up
from alignxplore_trl.inference.writers import open_writer
from alignxplore_trl.run.errors import UserError, user_errors_exit
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.prompts import Prompts

# Describes where no other model is named. It knows nothing but the simulated world.
SHIPPED_MODEL = str(Path(__file__).parents[2] / "assets" / "teacher")
# The field that tells the kind of a row that doesn't name it.
_KINDS = {"chosen": "comparison", "rejected": "comparison", "comment": "post", "text": "attributes"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out one command; exit status 1 where somebody isn't described, 2 for a mistake."""
    asked = _parser().parse_args(arguments)
    with user_errors_exit():
        try:
            asked.run(asked)
            sys.stdout.flush()
        except sqlite3.Error as error:
            raise UserError(f"{asked.states}: a file of user states: {error}") from error
        except BrokenPipeError:  # Its reader, such as `head`, has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="alignxplore", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    model, states, rows = (ArgumentParser(add_help=False) for _ in range(3))
    model.add_argument("--model", default=SHIPPED_MODEL, help="outputs/<run>/rl/model, owner/name")
    model.add_argument("--url", dest="urls", action="append", default=[], help="its server's URL")
    model.add_argument("--served-as", help="its name at the server [--model]")
    model.add_argument("--key-variable", help="environment variable with the server's key")
    model.add_argument("--vllm", action="store_true", help="load it into vLLM")
    model.add_argument("--temperature", type=float, help="of sampling [the model's; replies: 0.7]")
    model.add_argument("--seed", type=int, default=0, help="of sampling [0]")
    states.add_argument("--states", type=Path, default="users.sqlite", help="[users.sqlite]")
    rows.add_argument("--user", help="whose rows are that don't say so")
    rows.add_argument("--json", action="store_true", help="an object a line, with the reasoning")
    file = "a signal in each row: JSON lines, JSON, Parquet, CSV or TSV"

    def add(run: Callable[[Namespace], None], *parents: ArgumentParser) -> ArgumentParser:
        own = commands.add_parser(run.__name__, help=run.__doc__, parents=parents)
        own.set_defaults(run=run)
        return own

    own = add(describe, rows, model)
    own.add_argument("file", type=Path, help=file)
    own = add(update, rows, states, model)
    own.add_argument("files", type=Path, nargs="*", help=f"{file}; none: what is pending is read")
    own.add_argument("--per-round", type=int, help="signals of one update [as in training]")
    own = add(show, states)
    own.add_argument("names", nargs="*", help="whose; none: all names are listed")
    own.add_argument("--export", action="store_true", help="all that is kept, as JSON")
    add(forget, states).add_argument("name", help="whose")
    own = add(reply, states, model)
    own.add_argument("post", help="what is replied to")
    own.add_argument("--user", help="whose description the model is given")
    own.add_argument("--description", help="another description that it is given [none]")
    own.add_argument("--prompts", default="default", help="prompt folder [default]")
    own.add_argument("--chat", action="store_true", help="ask through the model's chat template")
    own.add_argument("--max-new-tokens", type=int, default=512, help="longest reply [512]")
    return parser


def describe(asked: Namespace) -> None:
    """Describe each user of a file from all their signals at once; nothing is kept."""
    asked.states, asked.files, asked.per_round = Path(":memory:"), [asked.file], -1
    asked.user = asked.user or "user"
    update(asked)


def update(asked: Namespace) -> None:
    """Put down the signals of files, and read all that are pending."""
    files = [read_signals(file, asked.user) for file in asked.files]
    failed = False
    with UserStates(asked.states) as states:
        for user, signals in (item for file in files for item in file.items()):
            new = states.add(user, signals)
            say(f"{user}: {new} new signals, {len(signals) - new} known ones")
        if asked.model == SHIPPED_MODEL:
            say(f"described by the shipped teacher, {SHIPPED_MODEL}; --model names a trained one")
        how = asked.model, asked.temperature, asked.seed
        describer = PreferenceDescriber.from_pretrained(*how, **_where(asked))
        most = asked.per_round or describer.signals
        for user, version, outcome in catch_up(states, describer, states.users(), most):
            if isinstance(outcome, NotDescribedError):
                say(f"not described: {user}: {outcome}")
                failed = True
            elif asked.json:
                values = {"user": user, "version": version, **msgspec.structs.asdict(outcome)}
                print(json.dumps(values, ensure_ascii=False))
            else:
                _print(user, outcome)
    if failed:
        raise SystemExit(1)


def show(asked: Namespace) -> None:
    """Show users' descriptions, or all that is kept of them."""
    with _existing(asked.states) as states:
        for user in asked.names:
            if asked.export:
                print(json.dumps(states.export(user), ensure_ascii=False, indent=2))
            else:
                _print(user, _current(states, user))
        if not asked.names:
            print("\n".join(map(_plain, states.users())))


def forget(asked: Namespace) -> None:
    """Delete all that is kept of a user."""
    with _existing(asked.states) as states:
        states.forget(asked.name)
    say(f"{asked.name} is forgotten")


def reply(asked: Namespace) -> None:
    """Reply to a post as a user would like it, by any language model."""
    description = asked.description
    if asked.user is not None:
        with _existing(asked.states) as states:
            description = _current(states, asked.user).description
    temperature = 0.7 if asked.temperature is None else asked.temperature
    how = {"chat": asked.chat, "max_new_tokens": asked.max_new_tokens, "temperature": temperature}
    writer = open_writer(asked.model, top_p=0.95, top_k=None, **how, **_where(asked))
    prompt = Prompts(asked.prompts).render("reply", post=asked.post, description=description)
    [[written]] = writer.write([prompt], seed=asked.seed)
    # Of a model that thinks, what it wrote behind its thoughts.
    text = written.text.rpartition("</think>")[2].strip() if written else ""
    if not text:
        raise UserError(f"{asked.model} gave no reply {dict(writer.counts)}")
    print(_plain(text))


def read_signals(path: Path, user: str | None) -> dict[str, list[tuple[str, Signal]]]:
    """Read JSON lines, a JSON array, CSV, TSV or Parquet: each user's signals in order, with ids.

    A row has the texts of its kind: `post`, `chosen` and `rejected`; `post` and `comment`; or
    `text`. It may name its `kind` (comparison, post, attributes), an `id`, and a `user` other than
    the given one. Rows that can't be read are one UserError, each with its place and field.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected one with a signal in each row")
    signals, problems = dict[str, list[tuple[str, Signal]]](), Problems()
    for row in read_rows(path, {"user", "id", "kind", "post", *_KINDS}, problems):
        # In tables an empty cell is how nothing is written.
        found = row.value.items() if isinstance(row.value, dict) else ()
        values = {name: value for name, value in found if value not in (None, "")}
        owner = values.get("user", user)
        kind = next((_KINDS[name] for name in values if name in _KINDS), "comparison")
        given = Row(row.name, row.place, {"kind": kind, **values})
        if not isinstance(owner, str) or not owner.isprintable():
            problems.append(
                f"{row.place}, user: {owner!a} found, expected a name (--user gives one)"
            )
        elif signal := convert(given, Signal, problems):  # type: ignore[arg-type]
            signals.setdefault(owner, []).append((str(values.get("id", "")), signal))
    if not signals and not problems:
        problems.append(f"{path}: no rows found, expected at least one")
    problems.raise_if_any()
    return signals


def _where(asked: Namespace) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in ("urls", "served_as", "key_variable", "vllm")}


def _existing(path: Path) -> UserStates:
    if not path.is_file():
        raise UserError(f"--states: found no file {path}; alignxplore update makes it")
    return UserStates(path)


def _current(states: UserStates, user: str) -> Description:
    if not (versions := states.versions(user)):
        raise UserError(f"{user}: no description; alignxplore update reads signals, show lists all")
    return versions[-1]


def _print(user: str, written: Description) -> None:
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
