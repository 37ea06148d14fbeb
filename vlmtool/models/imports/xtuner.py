"""XTuner's checkpoints and folders: its names of the parts. Below `llm.` and `projector.` they are vlmtool's own."""

from vlmtool.models.imports.names import COMPUTED, rules

RULES = rules(
    COMPUTED,
    (r"llm\.", "llm."),
    (r"visual_encoder\.", "vision_encoder.model."),
    (r"projector\.", "projector."),
)
"""Of a .pth; of a folder, whose parts lie apart, once the name of the part stands before."""

# Sub-folder: the beginning of its names in a .pth.
ADAPTERS = {"llm_adapter": "llm.", "visual_encoder_adapter": "visual_encoder."}
WHOLE = {"llm": "llm.", "visual_encoder": "visual_encoder.", "projector": "projector."}
