"""Pictures for a page, as data URIs: accuracies with their intervals, training curves, words."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from wordcloud import STOPWORDS, WordCloud

# Told apart by those who don't see red and green (Okabe and Ito), on light and dark ground.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_INK = "#7d848c"
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "alignxplore", "font.family": "sans-serif",
    "font.size": 9, "savefig.transparent": True, "axes.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    **dict.fromkeys(_INKED, _INK),
}  # fmt: skip
# Words of every description, whomever it describes.
_COMMON = {"prefer", "prefers", "user", "users", "likes", "like", "dislike", "dislikes"}


def bar_chart(figures: pd.DataFrame) -> str:
    """Horizontal bars of shares with their intervals, one colour per judge; a line at one half.

    Args:
        figures: has `method`, `setting` and `judge`, and `value`, `low` and `high` from 0 to 1.
    """
    place = (figures.method + ", " + figures.setting).rename(None)
    value, low, high = (
        100
        * figures.pivot_table(index=place, columns="judge", values=name, sort=False, dropna=False)
        for name in ("value", "low", "high")
    )
    spread = np.nan_to_num([(value - low).to_numpy().T, (high - value).to_numpy().T])
    with rc_context(_STYLE):
        height = 1 + 0.18 * len(value) * (1 + value.shape[1])
        figure = Figure(figsize=(8, height), layout="constrained")
        axes = figure.add_subplot()
        more: Any = {"xerr": spread.swapaxes(0, 1), "color": COLOURS, "ecolor": _INK}
        value.plot.barh(ax=axes, width=0.8, **more)
        axes.axvline(50, linestyle="--", color=_INK, linewidth=0.8)
        axes.set(xlim=(0, 100), xlabel="%", ylabel="")
        axes.invert_yaxis()
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=value.shape[1])
        return _picture(figure)


def curve_chart(log: pd.DataFrame, curves: Mapping[str, str]) -> str:
    """One panel per column of a training log, over steps: logged values and their running mean.

    Args:
        log: has `step` and the columns.
        curves: column -> title; at least one of them has values.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(4 * len(curves), 2.6), layout="constrained")
        for number, (column, title) in enumerate(curves.items(), 1):
            axes = figure.add_subplot(1, len(curves), number)
            own = log[["step", column]].dropna()
            mean = own[column].rolling(max(1, len(own) // 10), center=True, min_periods=1).mean()
            axes.plot(own.step, own[column], ".", markersize=2, alpha=0.4, color=COLOURS[0])
            axes.plot(own.step, mean, color=COLOURS[0])
            axes.set(title=title, xlabel="step")
        return _picture(figure)


def word_cloud(descriptions: Sequence[str]) -> str | None:
    """Words as large as they are frequent, without stop words; `None` where there are none.

    The same descriptions give the same picture.
    """
    cloud = WordCloud(
        width=640, height=320, mode="RGBA", background_color=None, prefer_horizontal=1.0,
        relative_scaling=1.0, random_state=0, collocations=False, min_word_length=2,
        stopwords=STOPWORDS | _COMMON,
        color_func=lambda word, **_: COLOURS[sum(word.encode()) % len(COLOURS)],
    )  # fmt: skip
    words = cloud.process_text("\n".join(descriptions))
    if not words:
        return None
    cloud.generate_from_frequencies(words).to_image().save(file := io.BytesIO(), format="PNG")
    return _uri("png", file.getvalue())


def _picture(figure: Figure) -> str:
    figure.savefig(file := io.BytesIO(), format="svg", metadata={"Date": None})
    return _uri("svg+xml", file.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
