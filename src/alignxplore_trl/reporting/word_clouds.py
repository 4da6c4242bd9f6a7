"""Word clouds: which words descriptions are made of."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from wordcloud import STOPWORDS, WordCloud

from alignxplore_trl.reporting.charts import COLOURS
from alignxplore_trl.reporting.pages import Drawing

# Words of every description, whomever it describes.
_COMMON = {"prefer", "prefers", "user", "users", "likes", "like", "dislike", "dislikes"}
_TOLD = 8
_SIZE = (640, 320)


def count_words(descriptions: Sequence[str]) -> Counter[str]:
    """How often each word stands in descriptions, without those that carry no preference.

    English stop words and words such as `prefers` are left out; a word in singular and plural, or
    with capitals, counts as one.
    """
    reader = WordCloud(stopwords=STOPWORDS | _COMMON, collocations=False, min_word_length=2)
    return Counter(reader.process_text("\n".join(descriptions)))


def word_cloud(words: Counter[str], name: str, folder: Path) -> Drawing:
    """Draw words as large as they are frequent; the same words give the same picture.

    Args:
        words: at least one.
        name: of the PNG file in the folder.
        folder: where it goes.
    """
    width, height = _SIZE
    cloud = WordCloud(
        width=width,
        height=height,
        mode="RGBA",
        background_color=None,
        prefer_horizontal=1.0,
        relative_scaling=1.0,
        random_state=0,
        color_func=_colour,
    ).generate_from_frequencies(words)
    file = io.BytesIO()
    cloud.to_image().save(file, format="PNG")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(file.getvalue())
    told = ", ".join(f"{word} ({count})" for word, count in words.most_common(_TOLD))
    source = base64.b64encode(file.getvalue()).decode("ascii")
    picture = '<img src="data:image/png;base64,{}" alt="" width="{}" height="{}">'
    return Drawing(name, f"Most frequent: {told}.", Markup(picture).format(source, *_SIZE))


def _colour(word: str, **_: object) -> str:
    """One of the charts' colours, which can be read on a light and on a dark ground."""
    return COLOURS[sum(word.encode()) % len(COLOURS)]
