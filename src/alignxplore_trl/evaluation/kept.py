"""What models answered in evaluations, kept on disk, and made by several processes together.

A verdict or a completion is found by everything that it is a function of. So a killed evaluation
goes on where it was, and a new checkpoint is scored beside old ones for the cost of the new one.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from alignxplore_trl.baselines.language_model import Conversation, LanguageModel
from alignxplore_trl.inference.describing import Completion, Describer
from alignxplore_trl.judging.generator import Continuation, Generator
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Judge, Verdict
from alignxplore_trl.judging.written import Written
from alignxplore_trl.run.database import open_log, select_keys, told_in_words
from alignxplore_trl.text.rendering import Question

_WHAT = "the cache of evaluations"
_TABLE = "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value TEXT NOT NULL)"


class KeptAnswers:
    """An SQLite file of answers, as JSON, by a hash of what was asked.

    Of several processes the first alone reads and writes it; all are handed what it found, so that
    they agree on what is left to do.

    Args:
        path: the file; made with its folder if there is none.

    Raises:
        UserError: the file is no such database, or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._state = PartialState()
        self._database: sqlite3.Connection | None = None
        if self._state.is_main_process:
            with told_in_words(self.path, _WHAT):
                self._database = open_log(self.path)
                self._database.execute(_TABLE)

    def answers(self, keys: Sequence[str], make: Callable[[list[int]], Iterable[Any]]) -> list[Any]:
        """One answer per key, from the file where it is there.

        Args:
            keys: what tells one question from another, as text.
            make: places of keys -> their answers, as JSON values. It is called in each process, for
                its share of what isn't in the file. `None` is handed back, and not kept.
        """
        hashed = [hashlib.sha256(key.encode()).digest() for key in keys]
        found = self._find(hashed)
        # Equal questions once, by their first place.
        places = {key: place for place, key in reversed(list(enumerate(hashed)))}
        missing = [place for key, place in places.items() if key not in found]
        missing.sort()
        own = missing[self._state.process_index :: self._state.num_processes]
        made = list(zip((hashed[place] for place in own), make(own), strict=True))
        answered = dict(gather_object(made))
        self._keep(answered)
        known = {**found, **answered}
        return [known[key] for key in hashed]

    def _find(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        found: list[Any] = [None]
        if self._database is not None:
            with told_in_words(self.path, _WHAT):
                rows = select_keys(
                    self._database,
                    "SELECT key, value FROM answers WHERE key IN",
                    list(dict.fromkeys(keys)),
                )
                found = [{key: json.loads(value) for key, value in rows}]
        broadcast_object_list(found)
        return dict(found[0])

    def _keep(self, answers: Mapping[bytes, Any]) -> None:
        rows = [(key, json.dumps(value)) for key, value in answers.items() if value is not None]
        if self._database is None or not rows:
            return
        with told_in_words(self.path, _WHAT), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)


class KeptJudge:
    """A judge whose verdicts are kept; where it gave none, it is asked again another time.

    Args:
        judge: it is asked what isn't there.
        kept: where verdicts are.
        identity: what tells its verdicts from those of other judges, or of other templates.
    """

    def __init__(self, judge: Judge, kept: KeptAnswers, identity: str) -> None:
        self._judge = judge
        self._kept = kept
        self._identity = identity

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """One verdict per question, in order."""

        def ask(places: list[int]) -> list[list[float] | None]:
            verdicts = self._judge.judge([questions[place] for place in places])
            return [None if own is None else [*asdict(own).values()] for own in verdicts]

        keys = [_key(self._identity, [*asdict(question).values()]) for question in questions]
        return [None if own is None else Verdict(*own) for own in self._kept.answers(keys, ask)]

    def take_measurements(self) -> Measurements:
        """Those of the judge that is asked."""
        return self._judge.take_measurements()


class KeptGenerator:
    """A generator whose log-probabilities are kept; the arguments are those of `KeptJudge`."""

    def __init__(self, generator: Generator, kept: KeptAnswers, identity: str) -> None:
        self._generator = generator
        self._kept = kept
        self._identity = identity

    def log_probabilities(self, rows: Sequence[Continuation]) -> list[tuple[float, ...] | None]:
        """log p of each of the response's own tokens, in nats."""

        def ask(places: list[int]) -> list[tuple[float, ...] | None]:
            return self._generator.log_probabilities([rows[place] for place in places])

        keys = [_key(self._identity, [*asdict(row).values()]) for row in rows]
        return [None if own is None else tuple(own) for own in self._kept.answers(keys, ask)]

    def take_measurements(self) -> Measurements:
        """Those of the generator that is asked."""
        return self._generator.take_measurements()


# What a killed process has to ask for again at most.
_CONVERSATIONS_AT_ONCE = 256


class KeptLanguageModel:
    """A language model whose turns are kept; the arguments are those of `KeptJudge`."""

    def __init__(self, model: LanguageModel, kept: KeptAnswers, identity: str) -> None:
        self._model = model
        self._kept = kept
        self._identity = identity
        self.chat = model.chat
        self.unanswered = model.unanswered
        self.count_tokens = model.count_tokens

    def answer(
        self, conversations: Sequence[Conversation], *, temperature: float, seed: int
    ) -> list[Written | None]:
        """The model's next turn in each conversation; equal ones get answers of their own."""
        times: Counter[Conversation] = Counter()
        keys = []
        for conversation in conversations:
            turns = [[*asdict(message).values()] for message in conversation]
            keys.append(_key(self._identity, [temperature, seed, times[conversation], turns]))
            times[conversation] += 1
        found = []
        for number, start in enumerate(range(0, len(keys), _CONVERSATIONS_AT_ONCE)):
            part = slice(start, start + _CONVERSATIONS_AT_ONCE)
            # Another seed in each part: equal conversations in two of them get other answers.
            ask = partial(self._ask, conversations[part], temperature, seed + number)
            found += self._kept.answers(keys[part], ask)
        return [None if own is None else Written(**own) for own in found]

    def _ask(
        self, part: Sequence[Conversation], temperature: float, seed: int, places: list[int]
    ) -> list[dict[str, Any] | None]:
        asked = [part[place] for place in places]
        answers = self._model.answer(asked, temperature=temperature, seed=seed)
        return [None if own is None else asdict(own) for own in answers]


class KeptCompletions:
    """A model whose completions are kept, some batches of prompts at a time.

    What is sampled depends on everything in the same batches, so that these are found, or written,
    as a whole. Several processes write different parts, and the same as one process does.

    Args:
        describer: it is asked for what isn't there.
        kept: where completions are.
        identity: what tells its completions from those of other models, or of other sampling.
        batches: that are one entry: what a killed process has to write again.
    """

    def __init__(
        self, describer: Describer, kept: KeptAnswers, identity: str, batches: int = 8
    ) -> None:
        self._describer = describer
        self._kept = kept
        self._identity = identity
        self._size = batches * describer.batch_size
        self.max_prompt_tokens = describer.max_prompt_tokens
        self.prompt = describer.prompt
        self.count_tokens = describer.count_tokens
        self.read = describer.read

    def complete(self, prompts: Sequence[str], seed: int) -> list[Completion]:
        """One completion per prompt: a function of the prompts and the seed."""
        starts = range(0, len(prompts), self._size)
        parts = [list(prompts[start : start + self._size]) for start in starts]
        keys = [_key(self._identity, [seed + number, part]) for number, part in enumerate(parts)]
        at_once = PartialState().num_processes
        completions: list[Completion] = []
        for first in range(0, len(keys), at_once):

            def write(places: list[int], first: int = first) -> list[list[list[Any]]]:
                numbers = [first + place for place in places]
                return [_values(self._describer.complete(parts[n], seed + n)) for n in numbers]

            for part in self._kept.answers(keys[first : first + at_once], write):
                completions += [Completion(*values) for values in part]
        return completions


def _values(completions: Sequence[Completion]) -> list[list[Any]]:
    return [[each.text, each.tokens, each.ended, each.seconds] for each in completions]


def _key(identity: str, asked: Any) -> str:
    return json.dumps([identity, asked])
