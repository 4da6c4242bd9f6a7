"""Questions whose answer is obvious: a judge that gets them wrong is no judge to train against."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from alignxplore_trl.judging.encoding import encode_answers
from alignxplore_trl.judging.protocol import Judge, JudgedPair, preferences
from alignxplore_trl.text.rendering import Layout, PromptSet, Question

# In words that the small judges of the simulated world know, too.
_PAIRS = (
    ("buying boots online", "prefers casual", "hey, dude", "esteemed, sincerely"),
    ("painting chairs upstairs", "prefers serious", "solemnly, gravely", "haha, kidding"),
    ("fixing bikes together", "prefers confident", "definitely, surely", "perhaps, maybe"),
    ("moving pianos abroad", "prefers brief", "tldr, nutshell", "furthermore, thoroughly"),
)
OBVIOUS = tuple(
    JudgedPair(f"probe-{number}", post, description, chosen, rejected)
    for number, (post, description, chosen, rejected) in enumerate(_PAIRS)
)
# Of the obvious questions, those that have to be answered rightly.
ENOUGH = 3


@dataclass(frozen=True)
class ProbeAnswers:
    """What a judge made of the obvious questions, each asked in both orders of the replies.

    Attributes:
        right: questions for which the mean probability of the right reply is above one half.
        probability: that probability, averaged over the questions that were answered; `None` where
            none was.
        label_mass: mean probability of naming either reply; `None` for a judge without verdicts.
        unanswered: how many askings had no answer, by reason.
    """

    right: int
    probability: float | None
    label_mass: float | None
    unanswered: dict[str, int]


def probe(judge: Judge) -> ProbeAnswers:
    """Ask a judge the obvious questions; what it has measured before is taken."""
    judge.take_measurements()
    own = [each.probability for each in preferences(judge, OBVIOUS, "both", seed=0) if each]
    measured = judge.take_measurements()
    masses = measured.label_masses
    return ProbeAnswers(
        right=sum(probability > 0.5 for probability in own),
        probability=sum(own) / len(own) if own else None,
        label_mass=sum(masses) / len(masses) if masses else None,
        unanswered=dict(measured.unanswered),
    )


def letter_problem(
    tokenizer: PreTrainedTokenizerBase, prompts: PromptSet, *, chat: bool, layout: Layout
) -> str | None:
    """Why a judge with this tokenizer can't be read at the letter of its answer; `None` if it can.

    The answers have to differ in one token each, and go on alike: the probability of a token that
    is but the beginning of a letter would be that of other words, too.
    """
    [question] = [Question(pair.post, pair.description, "x", "y") for pair in OBVIOUS[:1]]
    [(with_a, with_b)] = encode_answers(tokenizer, prompts, [question], chat=chat, layout=layout)
    differing = [at for at, (a, b) in enumerate(zip(with_a, with_b, strict=False)) if a != b]
    if not differing:
        return "A and B have the same tokens, so that its answers can't be told apart"
    at = differing[0]
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in (with_a[at], with_b[at]):
        return "one of the letters A and B is unknown to its tokenizer"
    if with_a[at + 1 :] != with_b[at + 1 :]:
        pieces = [tokenizer.convert_ids_to_tokens(own[at:]) for own in (with_a, with_b)]
        return f"A and B aren't one token each where the answers part: {pieces[0]}, {pieces[1]}"
    return None
