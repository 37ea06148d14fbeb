"""Benchmarks that are one table of multiple-choice questions: how they are asked, and what can be chosen."""

from vlmtool.evaluation.benchmark import Sample
from vlmtool.evaluation.tables.choice_table import question_text
from vlmtool.evaluation.tables.picture_table import Row
from vlmtool.evaluation.tables.table_benchmark import TableBenchmark


class ChoiceBenchmark(TableBenchmark):
    """Base of these benchmarks."""

    def text(self, row: Row) -> str:
        """Hint, question and options, and the request for a letter."""
        return question_text(row)

    def shown_text(self, row: Row) -> str:
        """The same without the request."""
        return question_text(row, with_suffix=False)

    def choices(self, sample: Sample) -> tuple[str, ...]:
        """The letters of its options."""
        return tuple(self._by_index[sample.index].options)
