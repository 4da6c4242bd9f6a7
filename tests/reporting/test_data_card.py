"""The card says what is in the files."""

import pytest

from alignxplore_trl.data.sources import write_split
from alignxplore_trl.reporting.data_card import CardTokenizer, load_tokenizer, write_data_card
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Comparison, PreferenceCase

COUNTS = {"rows": 1234, "rows_dropped/few_dimensions": 1000, "posts_near_duplicate": 3}
WORDS = CardTokenizer("words", lambda texts: [len(text.split()) for text in texts])


def case(number: int, signals: int, pole: str | None) -> PreferenceCase:
    return PreferenceCase(
        f"c{number}",
        f"u{number}",
        tuple(Comparison(f"post {n}", "yes it is", "no") for n in range(signals)),
        Comparison("a post", "yes", "no"),
        {"tone": pole} if pole else None,
    )


def test_the_card_of_refined_sets(tmp_path):
    write_split(
        tmp_path, "rl", [case(n, 4 + 4 * (n % 2), "blunt" if n else "kind") for n in range(4)]
    )
    write_split(tmp_path, "test_posts", [])
    write_data_card(tmp_path, "rows.jsonl", COUNTS, WORDS)
    card = (tmp_path / "card.md").read_text()
    assert "| rl | 4 | 4 | 4–8 | 2 |" in card
    assert "| test_posts | 0 | 0 | – | 0 |" in card
    assert "| rows_dropped/few_dimensions | 1,000 |" in card
    assert "| tone | 4 | blunt | 75% |" in card
    # Signals of six words, 4 or 8 of them; a target of four.
    assert "| rl | 36, 48, 48 | 6, 6, 6 | 4, 4, 4 |" in card
    for name in ("balance.png", "lengths.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_card_without_directions_and_tokenizer(tmp_path):
    write_split(tmp_path, "rl", [case(1, 4, None)])
    write_data_card(tmp_path, "rows.jsonl", COUNTS, None)
    card = (tmp_path / "card.md").read_text()
    assert "The rows have no direction vectors." in card
    assert "there was no tokenizer" in card
    assert not list(tmp_path.glob("*.png"))


def test_tokenizers_are_of_a_folder_or_of_the_hub(tmp_path, monkeypatch, capsys):
    import huggingface_hub.constants

    tokenizer = load_tokenizer("assets/backbone")
    assert tokenizer is not None
    assert tokenizer.count(["", "brief"])[0] == 0
    assert tokenizer.count(["brief"])[0] > 0
    assert load_tokenizer(None) is None
    with pytest.raises(UserError, match=r"data\.tokenizer: found no .*tokenizer\.json"):
        load_tokenizer(str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert load_tokenizer("nobody/nothing") is None
    assert "nobody/nothing can't be had from the Hub" in capsys.readouterr().err
