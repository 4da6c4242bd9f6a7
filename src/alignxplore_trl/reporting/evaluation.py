"""What an evaluation leaves in its run folder: files of rows, tables, a chart, and the summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from alignxplore_trl.evaluation.benchmarks import Benchmark
from alignxplore_trl.evaluation.groups import GroupRow
from alignxplore_trl.evaluation.scoring import DescriptionRow, Scores, VerdictRow
from alignxplore_trl.evaluation.summary import Summary
from alignxplore_trl.reporting.charts import accuracy_chart
from alignxplore_trl.reporting.tables import accuracy_table, difference_table
from alignxplore_trl.run.folder import RunFolder, write_text_atomic


class EvaluationFiles:
    """Collects what came of each benchmark, and writes all of it at the end.

    Args:
        folder: of the run.
    """
