"""XTuner's folder: adapters or whole parts, the projector as a small model with code of its own, and a config.

Source: https://github.com/InternLM/xtuner (v0.1.23, LLaVAModel), as VLMEvalKit's LLaVA_XTuner reads it.
"""

from collections.abc import Mapping
from typing import Any

PROJECTOR_FILES = ("configuration_projector.py", "modeling_projector.py")  # beside the projector's config.json
CONFIG = "xtuner_config.py"
_HEADING = "# Where this folder's model comes from, as vlmtool trained it; nothing has to run it.\n"


def projector_config(projector: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The content of projector/config.json.

    Args:
        projector: {vision_hidden_size, llm_hidden_size, options} of an MLPProjector.
        dtype: "float16", …
    """
    options = projector["options"]
    configuration, modeling = (name.removesuffix(".py") for name in PROJECTOR_FILES)
    return {
        "architectures": ["ProjectorModel"],
        "auto_map": {
            "AutoConfig": f"{configuration}.ProjectorConfig",
            "AutoModel": f"{modeling}.ProjectorModel",
        },
        "model_type": "projector",
        "visual_hidden_size": projector["vision_hidden_size"],
        "llm_hidden_size": projector["llm_hidden_size"],
        "depth": options["depth"],
        "hidden_act": options["hidden_act"],
        "bias": options["bias"],
        "torch_dtype": dtype,
    }


def config_text(values: Mapping[str, Any]) -> str:
    """The content of xtuner_config.py: plain values."""
    return _HEADING + "".join(f"{name} = {value!r}\n" for name, value in values.items())
