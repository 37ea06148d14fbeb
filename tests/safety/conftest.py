"""Fixtures of other folders' tests that these use too."""

from tests.evaluation.conftest import write_table  # noqa: F401
