"""What a reader of the report should know before describing real people."""

from __future__ import annotations

from collections.abc import Mapping

from alignxplore_trl.reporting.pages import Section, Text

_PARAGRAPHS: Mapping[str, str] = {
    "A guess.": "A description says what somebody seems to prefer. A model guessed it from a few "
    "choices or posts; it is often wrong (see the accuracies above), and reads more certain than "
    "it is. It is personal data of the user whom it describes, also where no name stands in it.",
    "Consent.": "Describe people who were told that their choices and texts are read for this, who "
    "agreed to it and can withdraw. Show users their description, let them correct and delete it, "
    "and delete it with the signals that it was made from. Texts that people posted in public were "
    "not posted to be profiled.",
    "Bias by group.": "A model serves some tastes better than others; the section on attribute "
    "groups shows by how much, for the dimensions that the data names. It can't show it for groups "
    "that the data doesn't name, such as age, origin, gender or language: measure those on your "
    "own users before use. A judge has leanings of its own, so a difference under one judge alone "
    "may be the judge's.",
    "Not to be used": "for decisions about people (credit, work, housing, insurance, health, "
    "education, law enforcement); to infer or to act on religion, politics, health, sexuality, "
    "origin or other protected traits, even where a description hints at them; to single out, rank "
    "or identify people, to set prices for them, or to find what persuades them against their "
    "interest; on children.",
    "Made for": "letting an assistant answer more as its user likes it, under that user's eyes. To "
    "agree with a taste is not to be right: keep facts, safety advice and refusals out of its "
    "reach, and keep a way to turn it off.",
    "Before this page is shared:": "it shows words of descriptions, and report.html "
    "quotes signals and descriptions of cases. With data of real "
    "people, share it only with those who may read that data, or make it with page.cases=0.",
}


def responsible_use() -> Section:
    """Consent, bias by group, and what descriptions may not be used for."""
    blocks = [Text(text, lead) for lead, text in _PARAGRAPHS.items()]
    return Section("responsible-use", "Responsible use", blocks)
