"""Asking a teacher for what isn't there yet, within a budget, and giving up where it is no use."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from alignxplore_trl.judging.client import Unanswered
from alignxplore_trl.judging.written import Written
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.synthesis.answers import TeacherAnswers
from alignxplore_trl.synthesis.teachers import Arrival, Ask, Teacher

# So many requests without an answer in a row, each with its retries: the teacher is out.
GIVE_UP_AFTER = 50
_MILLION = 1_000_000


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost, read and written, in any one currency."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost."""
        total = self.prompt * prompt_tokens + self.completion * completion_tokens
        return total / _MILLION


@dataclass(frozen=True)
class Reservation:
    """What a request may cost: by our count of its tokens, and what is set aside for it."""

    counted: float
    amount: float


class Spending:
    """Tokens and their cost, with what may be spent.

    What is under way is reserved at the most that it can cost, so that the limit holds, too, when
    every answer is as long as it may be. Where an answer costs more than was reserved for it (a
    server may count otherwise), as many times more are reserved from then on.

    Args:
        prices: `None`: nothing is known of the cost.
        limit: the most that may be spent, `None` without one; needs prices.
    """

    def __init__(self, prices: Prices | None, limit: float | None = None) -> None:
        self.prices = prices
        self.limit = limit
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._reserved = 0.0
        self._times_more = 1.0

    @property
    def cost(self) -> float:
        """What the answers cost so far."""
        if self.prices is None:
            return 0.0
        return self.prices.of(self.prompt_tokens, self.completion_tokens)

    def affords(self, written: Written) -> bool:
        """Whether an answer that was paid for before is within the limit."""
        if self.prices is None or self.limit is None:
            return True
        more = self.prices.of(written.prompt_tokens, written.completion_tokens)
        return self.cost + more <= self.limit

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> Reservation | None:
        """Set aside what a request can cost; `None` where it would be more than there is left."""
        if self.prices is None or self.limit is None:
            return Reservation(0.0, 0.0)
        counted = self.prices.of(prompt_tokens, completion_tokens)
        amount = counted * self._times_more
        if self.cost + self._reserved + amount > self.limit:
            return None
        self._reserved += amount
        return Reservation(counted, amount)

    def settle(self, reservation: Reservation, written: Written | None) -> None:
        """Give back what was reserved for a request that has ended, and count its answer."""
        self._reserved -= reservation.amount
        if written is None:
            return
        self.add(written)
        if reservation.counted and self.prices is not None:
            cost = self.prices.of(written.prompt_tokens, written.completion_tokens)
            self._times_more = max(self._times_more, cost / reservation.counted)

    def add(self, written: Written) -> None:
        """Count an answer."""
        self.prompt_tokens += written.prompt_tokens
        self.completion_tokens += written.completion_tokens


class Asking:
    """Asks a teacher for what the kept answers lack.

    Args:
        teacher: who is asked.
        answers: what was written before, and where answers are kept as they arrive.
        spending: counts what they cost, whenever they were paid for.

    Attributes:
        counts: of `asked`, `cached`, `not_asked` (no budget), and `unanswered/<reason>`.
    """

    def __init__(self, teacher: Teacher, answers: TeacherAnswers, spending: Spending) -> None:
        self.teacher = teacher
        self.answers = answers
        self.spending = spending
        self.counts: Counter[str] = Counter()

    def fulfil(self, asks: Sequence[Ask], seed: int) -> Iterator[list[Arrival]]:
        """What was asked for, as it arrives; what was there already first.

        Args:
            asks: all different; earlier ones come first where the budget ends.
            seed: of sampling. Where a part of them is there already the rest is sampled from a
                stream of its own: the same one would give the same texts again.

        Raises:
            UserError: the teacher isn't there, or too many requests in a row had no answer.
        """
        cached = self.answers.find(self.teacher.identity, asks)
        affordable: list[Arrival] = []
        for ask in asks:
            if ask in cached and self.spending.affords(cached[ask]):
                self.spending.add(cached[ask])
                affordable.append((ask, cached[ask]))
        self.counts["cached"] += len(affordable)
        self.counts["not_asked"] += len(cached) - len(affordable)
        if affordable:
            yield affordable
        missing = [ask for ask in asks if ask not in cached]
        if missing:
            self.teacher.check()
            first = missing[0]
            of_rest = seed_of(seed, first.kind, first.case_id, first.round, first.number)
            yield from _Errand(self, missing).arrivals(of_rest if cached else seed)


class _Errand:
    """One list of asks on its way; the teacher may call from several threads."""

    def __init__(self, asking: Asking, asks: Sequence[Ask]) -> None:
        self._asking = asking
        self._asks = asks
        self._sent = self._answered = 0
        self._reserved: dict[Ask, Reservation] = {}
        self._counted = "", 0
        self._unanswered_in_a_row = 0
        self._lock = threading.Lock()

    def arrivals(self, seed: int) -> Iterator[list[Arrival]]:
        teacher, counts = self._asking.teacher, self._asking.counts
        yield from teacher.write(self._pull, self._keep, seed)
        if self._gives_up:
            reasons = {name: count for name, count in counts.items() if "unanswered/" in name}
            raise UserError(
                f"teacher: no answer to {self._unanswered_in_a_row} requests in a row ({reasons}); "
                "what was answered is kept. See that the teacher answers, and give the same "
                "command again: it asks for the rest"
            )
        counts["not_asked"] += len(self._asks) - self._sent

    @property
    def _gives_up(self) -> bool:
        return self._unanswered_in_a_row >= GIVE_UP_AFTER

    def _pull(self) -> Ask | None:
        with self._lock:
            if self._sent == len(self._asks) or self._gives_up:
                return None
            spending = self._asking.spending
            if spending.limit is not None and self._sent > 0 == self._answered:
                return None  # The first answer shows how the teacher counts.
            ask, teacher = self._asks[self._sent], self._asking.teacher
            reserved = spending.reserve(
                self._tokens_of(ask.prompt), teacher.sampling.max_new_tokens
            )
            if reserved is None:
                return None
            self._reserved[ask] = reserved
            self._sent += 1
            return ask

    def _tokens_of(self, prompt: str) -> int:
        """Tokens of a prompt where there is a budget, counted once for candidates in a row."""
        if self._asking.spending.limit is None:
            return 0
        if prompt != self._counted[0]:
            self._counted = prompt, self._asking.teacher.count_tokens(prompt)
        return self._counted[1]

    def _keep(self, arrivals: Sequence[Arrival]) -> None:
        asking = self._asking
        written = [(ask, own) for ask, own in arrivals if isinstance(own, Written)]
        asking.answers.keep(asking.teacher.identity, written)
        with self._lock:
            self._answered += len(arrivals)
            for ask, answer in arrivals:
                own = answer if isinstance(answer, Written) else None
                asking.spending.settle(self._reserved.pop(ask), own)
                if isinstance(answer, Unanswered):
                    asking.counts[f"unanswered/{answer.reason}"] += 1
                    self._unanswered_in_a_row += 1
                else:
                    asking.counts["asked"] += 1
                    self._unanswered_in_a_row = 0


def seed_of(*parts: object) -> int:
    """A seed that is a function of these, and of nothing else."""
    key = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4])
