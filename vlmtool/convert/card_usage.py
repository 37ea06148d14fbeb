"""How a folder of each format is opened: the part of a model card that is the same for all of them."""

_HUGGINGFACE = """\
With transformers alone:

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "path/of/this/folder"
processor = AutoProcessor.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(folder, device_map="auto")
content = [{"type": "image", "path": "picture.jpg"}, {"type": "text", "text": "What is in the picture?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
).to(model.device, model.dtype)
output = model.generate(**inputs, max_new_tokens=200)
print(processor.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```

Training read pictures by Pillow; where torchvision is installed, `AutoProcessor.from_pretrained(folder, backend="pil")`
does the same.
"""

_OFFICIAL = """\
With LLaVA's own code (https://github.com/haotian-liu/LLaVA); its function goes by the name it is given, which must
hold `llava`, and `mistral` where the language model is one:

```python
from llava.model.builder import load_pretrained_model

tokenizer, model, image_processor, _ = load_pretrained_model("path/of/this/folder", None, "llava")
```

The image processor, and an image encoder that was not trained, come from `mm_vision_tower` in `config.json`.
"""

_XTUNER = """\
With VLMEvalKit's `LLaVA_XTuner`, beside the bases; where this folder has `llm/` or `visual_encoder/`, give None for
that base:

```python
LLaVA_XTuner(
    llava_path="path/of/this/folder",
    llm_path="…", visual_encoder_path="…", visual_select_layer=-2, prompt_template="…",
)
```

The values stand in `xtuner_config.py`. Opening the projector runs the two `.py` files beside it
(`trust_remote_code=True`). These readers always pad pictures to squares.
"""

_VLMTOOL = """\
    vlmtool chat path/of/this/folder --image picture.jpg --question "What is in the picture?"

Parts that are not in this folder come from their bases, which are checked by their hashes.
"""

USAGE = {"huggingface": _HUGGINGFACE, "official": _OFFICIAL, "xtuner": _XTUNER, "vlmtool": _VLMTOOL}
