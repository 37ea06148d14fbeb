"""Names and shapes of other tools' formats: tables and pure functions, from our names to theirs."""
