"""vlmtool: compose, train, convert, talk to and evaluate vision-language models."""

from vlmtool.version import __version__

__all__ = ["__version__"]
