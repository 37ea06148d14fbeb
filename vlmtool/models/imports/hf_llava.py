"""LLaVA and LLaVA-NeXT as transformers has them: names of its versions 4 and 5, and what config.json says.

Source: https://huggingface.co/docs/transformers/model_doc/llava and llava_next.
"""

from pathlib import Path

from transformers import CONFIG_MAPPING

from vlmtool.models.encoders.reading import Reading
from vlmtool.models.imports.facts import ODD, VlmFacts, grids, native_llm, plain_layer
from vlmtool.models.imports.names import COMPUTED, rules
from vlmtool.utils.errors import CheckpointError, message_lines
from vlmtool.utils.files import read_json_object

RULES = rules(
    COMPUTED,
    (r"(?:language_model\.)?lm_head\.", "llm.lm_head."),
    (r"language_model\.model\.|model\.language_model\.", "llm.model."),
    (r"(?:model\.)?vision_tower\.", "vision_encoder.model."),
    (r"(?:model\.)?multi_modal_projector\.", "projector."),
    (r"(?:model\.)?image_newline$", "projector.row_end"),
)
_STRATEGIES = {"default": "patch", "full": "full"}


def hf_facts(folder: Path) -> VlmFacts:
    """What config.json says.

    Raises:
        CheckpointError: it cannot be read, or asks for what vlmtool does not compute.
    """
    file = folder / "config.json"
    said = read_json_object(file)
    try:
        config = CONFIG_MAPPING[said["model_type"]].from_dict(said)
        vision, text = config.vision_config, config.text_config
        strategy = _STRATEGIES[config.vision_feature_select_strategy]
    except ODD as error:
        raise CheckpointError(f"{file}: cannot be read: {message_lines(error)[0]}\nDownload it again.") from error
    if said.get("quantization_config"):
        raise CheckpointError(f"{file}: the model is quantised already.\nTake the one that is not, and give --bits 4.")
    dtype = said.get("dtype") or said.get("torch_dtype")
    stated = {"dtype": str(dtype)} if dtype else {}
    llm, llm_config = native_llm({**text.to_dict(), **stated}, text.model_type, file)
    tiles = config.model_type == "llava_next"
    return VlmFacts(
        llm=llm,
        llm_config=llm_config,
        reading=Reading(
            select_layer=plain_layer(config.vision_feature_layer, "vision_feature_layer", file),
            select_strategy=strategy,
            tiles=grids(config.image_grid_pinpoints, vision.image_size, file) if tiles else (),
        ),
        pad_to_square=False,  # its image processor does so where the model wants it
        vision_config=vision,
        vision_hidden_size=vision.hidden_size,
        projector_options={"hidden_act": config.projector_hidden_act},
    )
