"""How a checkpoint's model sees pictures, from its recipe and the encoder's config; no weights are read."""

import torch

from vlmtool.chat.transform import make_transform
from vlmtool.convert.source import Source
from vlmtool.data.views import Views
from vlmtool.models.build import build_projector
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import VisionEncoder, encoder_class


def trained_views(source: Source) -> tuple[VisionEncoder, Views]:
    """The image encoder, on the meta device, and what it was shown in training."""
    section, folder, config = source.recipe.vision_encoder, source.vision_encoder.folder, source.meta["projector"]
    cls = encoder_class(section.type)
    encoder = cls(cls.empty_model(folder), Reading.of(section))
    projector = build_projector(
        config["type"], config["vision_hidden_size"], config["llm_hidden_size"], config["options"],
        device=torch.device("meta"), row_end=bool(config.get("row_end")),
    )  # fmt: skip
    return encoder, make_transform(encoder, projector, folder, source.recipe.data.pad_to_square).views
