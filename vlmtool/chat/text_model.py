"""A language model alone, in the place of a composed model: it chats, and refuses images."""

from collections.abc import Sequence
from typing import NoReturn

from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmtool.data.conversation import Image
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.utils.errors import UsageError


def refuse_image(image: Image) -> NoReturn:
    """Takes the place of the count of an image's tokens."""
    raise UsageError(
        "This model reads no images: it is a language model alone.\nName a model folder, or add --llava FOLDER."
    )


class TextModel(VisionLanguageModel):
    """A composed model without encoder and projector."""

    llm: PreTrainedModel

    def __init__(self, llm: PreTrainedModel, image_token_id: int) -> None:
        nn.Module.__init__(self)
        self.llm = llm
        self.image_token_id = image_token_id

    def embed(self, input_ids: Tensor, image_embeds: Sequence[Tensor] = ()) -> Tensor:
        """Embeddings (B, T, D) of token ids (B, T)."""
        return self.llm.get_input_embeddings()(input_ids)
