"""Other tools' data as LLaVA records: a file for each source format, one writer for what comes out."""
