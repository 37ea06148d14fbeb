"""What other evaluators ask, in the form that our models read."""

from collections.abc import Sequence

from vlmtool.data.conversation import Image, Message, user


def question(parts: Sequence[str | Image]) -> Message:
    """A user's message, its texts and pictures in the order given.

    A picture before the first text is followed by a line break, as in training records, in `vlmtool chat` and in the
    benchmarks; one amid text stands as it is.
    """
    start = next((number for number, part in enumerate(parts) if isinstance(part, str)), len(parts))
    return user(*(piece for image in parts[:start] for piece in (image, "\n")), *parts[start:])
