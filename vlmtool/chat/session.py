"""A conversation in progress: its history, the images of the next question, and the cache of what was computed."""

from collections.abc import Generator as Pieces

from PIL import Image as PILImage

from vlmtool.chat.generator import GenerationSettings, Generator, PromptCache, Request
from vlmtool.chat.text_model import refuse_image
from vlmtool.data.conversation import Image, Message, assistant, user
from vlmtool.utils.errors import DataError, shortened


def check_text(text: str) -> None:
    """A terminal or a pipe may give bytes that are no UTF-8, which no tokenizer reads.

    Raises:
        DataError: so it is.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = text.encode("utf-8", "replace").decode()
        raise DataError(
            f"The question '{shortened(shown)}' is not UTF-8 text.\nSet the terminal to UTF-8, or convert the text: "
            "iconv -f LATIN1 -t UTF-8."
        ) from error


class ChatSession:
    """Turns of questions and answers; each turn computes only what it adds.

    Args:
        system: text that the conversation begins with; none unless given.
    """

    def __init__(
        self, generator: Generator, settings: GenerationSettings | None = None, system: str | None = None
    ) -> None:
        self.generator = generator
        self.settings = GenerationSettings() if settings is None else settings
        self._system = (Message("system", (system,)),) if system else ()
        self.reset()

    def reset(self) -> None:
        """Forget the conversation and the images; the system text stays."""
        self.messages: list[Message] = list(self._system)
        self.cache = PromptCache()
        self._pending: list[Image] = []

    def add_image(self, source: str | PILImage.Image) -> None:
        """Put an image into the next question, after those added before.

        Raises:
            UsageError: the model reads no images.
            DataError: it is missing or broken; the conversation is as before.
        """
        if self.generator.transform is None:
            refuse_image(Image(source))
        image = Image(source)
        self.generator.transform.open(image)
        self._pending.append(image)

    def ask(self, text: str) -> Pieces[str, None, None]:
        """The answer in pieces as they come.

        An answer that is left before its end stays in the history as far as it came; one that had not begun, or
        failed, leaves the conversation as it was.
        """
        check_text(text)
        pictures = [part for image in self._pending for part in (image, "\n")]
        question = user(*pictures, text)
        pieces: list[str] = []
        is_complete = False
        try:
            for piece in self.generator.stream(Request((*self.messages, question)), self.settings, self.cache):
                pieces.append(piece)
                yield piece
            is_complete = True
        finally:
            if is_complete or pieces:
                self.messages += [question, assistant("".join(pieces))]
                self._pending = []
