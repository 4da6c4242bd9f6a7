"""What a reader of the report should know before describing real people."""

from __future__ import annotations

from alignxplore_trl.reporting.pages import Section, Text

_PARAGRAPHS = (
    "A description says what somebody seems to prefer. It is a guess of a model from a few choices "
    "or posts, often wrong (see the accuracies above), and it reads more certain than it is. It is "
    "personal data of the user whom it describes, and stays that when no name stands in it.",
    "Consent. Describe people who were told that their choices and texts are read for this, agreed "
    "to it, and can withdraw. Show users their description, let them correct it and delete it, and "
    "delete it with the signals that it was made from. Texts that people posted in public were not "
    "posted to be profiled.",
    "Bias by group. A model serves some tastes better than others; the section on attribute groups "
    "shows by how much, for the dimensions that the data names. It can't show it for groups that "
    "the data doesn't name, such as age, origin, gender or language. Measure those on your own "
    "users before use. A judge has leanings of its own, so a difference under one judge alone may "
    "be the judge's.",
    "What descriptions may not be used for. Not for decisions about people: credit, work, housing, "
    "insurance, health, education, law enforcement. Not to infer or to act on religion, politics, "
    "health, sexuality, origin or other protected traits, even where a description hints at them. "
    "Not to single out, to rank or to identify people, to set prices for them, or to find what "
    "persuades them against their interest. Not on children.",
    "What they are made for: to let an assistant answer more as its user likes it, under that "
    "user's eyes. Agreeing with a taste is not the same as being right: keep facts, safety advice "
    "and refusals out of its reach, and keep a way to turn it off.",
    "Before this page is shared: it quotes signals and descriptions of cases. With data of real "
    "people, share it only with those who may read that data, or make it with page.cases=0.",
)


def responsible_use() -> Section:
    """Consent, bias by group, and what descriptions may not be used for."""
    return Section("responsible-use", "Responsible use", [Text(each) for each in _PARAGRAPHS])
