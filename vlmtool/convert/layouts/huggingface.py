"""transformers' LLaVA classes: where the projector's weights lie, and a chat template that takes their content.

Source: https://huggingface.co/docs/transformers/model_doc/llava
"""

# Ours (depth 2) → inside `LlavaModel` and `LlavaNextModel`. In files the first part of the names is left out.
PROJECTOR = {
    "model.0": "multi_modal_projector.linear_1",
    "model.2": "multi_modal_projector.linear_2",
    "row_end": "image_newline",
}
DEPTH = 2  # linear layers that their projector has

# What stands before a template of text alone. Content may be text or a list of typed parts; pictures at the front of a
# message are followed by a line end, as chat and the benchmarks write it and LLaVA's records have it, unless the text
# brings its own.
_TYPED = """\
{%- set bos_token = bos_token | default('') %}
{%- set eos_token = eos_token | default('') %}
{%- set typed = namespace(messages=[], text='') %}
{%- for message in messages %}
    {%- set typed.text = '' %}
    {%- if message['content'] is string %}
        {%- set typed.text = message['content'] %}
    {%- else %}
        {%- for part in message['content'] %}
            {%- if part['type'] == 'image' %}
                {%- set typed.text = typed.text + 'IMAGE_TAG' %}
            {%- elif part['type'] == 'text' %}
                {%- if loop.index0 and typed.text == 'IMAGE_TAG' * loop.index0
                    and part['text'][:1] not in [' ', '\\n', ''] %}
                    {%- set typed.text = typed.text + '\\n' %}
                {%- endif %}
                {%- set typed.text = typed.text + part['text'] %}
            {%- else %}
                {{- raise_exception('Only text and images are understood.') }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {%- set typed.messages = typed.messages + [{'role': message['role'], 'content': typed.text}] %}
{%- endfor %}
{%- set messages = typed.messages %}
"""


def typed_template(jinja: str, image_tag: str) -> str:
    """A chat template that takes content as text or as typed parts ([{type: image}, {type: text, text: …}]).

    Args:
        jinja: a template that reads each message's content as text.
        image_tag: what stands for a picture in that text.
    """
    return _TYPED.replace("IMAGE_TAG", image_tag) + jinja
