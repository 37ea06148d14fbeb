"""Find a chat template by name, by file, or in a tokenizer."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, TemplateSyntaxError, nodes

from vlmtool.utils.errors import RecipeError, UsageError, did_you_mean
from vlmtool.utils.files import no_file

FOLDER = Path(__file__).resolve().parent
# Further names of a template, which XTuner gives to the same strings.
ALIASES = {"deepseek_moe": "mistral", "deepseekcoder": "deepseek_coder", "mixtral": "mistral"}
SET_TEMPLATE = "data.sets: template"  # what names the template of one data set, for messages
_STOP_WORDS = re.compile(r"\{#-?\s*stop_words:(.*?)-?#\}\s*", re.DOTALL)
_MARKS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class ChatTemplate:
    """A jinja chat template with marked assistant spans, and the words at which an answer ends besides EOS."""

    name: str | None
    jinja: str
    stop_words: tuple[str, ...] = ()

    @property
    def marks_answers(self) -> bool:
        """The template has `{% generation %}` marks, which training needs."""
        return bool(_GENERATION.search(self.jinja))


def template_names() -> list[str]:
    """Names of the shipped templates, sorted; a few have two."""
    return sorted([*(file.stem for file in FOLDER.glob("*.jinja")), *ALIASES])


def find_template(name: str | None, tokenizer_template: str | None, key: str = "llm.template") -> ChatTemplate:
    """The template called `name` (shipped, or a .jinja file); None takes the tokenizer's own.

    Args:
        key: of the recipe that names it, for messages.

    Whichever of its names is asked for, a template bears the name of its file, so that runs that differ in it agree.

    Raises:
        UsageError: no such template. RecipeError: None was asked and the tokenizer has none.
    """
    if name is None:
        if not tokenizer_template:
            raise RecipeError(
                f"{key}: the tokenizer has no chat template of its own.\n"
                f"Name one: {', '.join(template_names())}, or a .jinja file."
            )
        return ChatTemplate(None, tokenizer_template)
    path = Path(name)
    if path.suffix == ".jinja":
        if not path.is_file():
            raise UsageError(f"{key}: {no_file(path)}.")
        return _read_template(path, key)
    if name not in template_names():
        raise UsageError(
            f"{key}: there is no template '{name}'.{did_you_mean(name, template_names())}\n"
            f"Shipped: {', '.join(template_names())}; a .jinja file works too."
        )
    name = ALIASES.get(name, name)
    return parse_template(name, (FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))


def find_training_template(name: str | None, tokenizer_template: str | None, key: str = "llm.template") -> ChatTemplate:
    """The same, for samples, whose answers must be marked.

    Raises:
        RecipeError: they are not.
    """
    template = find_template(name, tokenizer_template, key)
    if not template.marks_answers:
        raise RecipeError(
            f"{key}: the chat template does not mark the answers ({{% generation %}}): nothing to learn.\n"
            "Name a shipped one (--set llm.template=vicuna) or add the marks to a .jinja file."
        )
    return template


def parse_template(name: str, text: str) -> ChatTemplate:
    """A template from a file's text; its first line may be `{# stop_words: ["<eoa>"] #}`.

    Raises:
        ValueError: what stands there is no JSON list of words.
    """
    match = _STOP_WORDS.match(text)
    stop_words = json.loads(match.group(1)) if match else []
    if not (isinstance(stop_words, list) and all(isinstance(word, str) and word for word in stop_words)):
        raise ValueError("no list of words")
    return ChatTemplate(name, text[match.end() :] if match else text, tuple(stop_words))


def syntax_tree(jinja: str) -> nodes.Template:
    """A template as transformers reads it, but for the marks of answers, which are its own.

    Raises:
        TemplateSyntaxError: it is no template.
    """
    return Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_MARKS.sub("", jinja))


def _read_template(path: Path, key: str) -> ChatTemplate:
    """A user's file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{key}: {path} cannot be read as UTF-8 text: {error}.\nSave it as such.") from error
    try:
        template = parse_template(path.stem, text)
    except ValueError as error:
        raise RecipeError(
            f"{key}: {path}: its stop words are {error}.\n"
            'They are a JSON list, in double quotes: {# stop_words: ["<|end|>"] #}'
        ) from error
    try:
        syntax_tree(template.jinja)
    except TemplateSyntaxError as error:
        line = error.lineno + text.count("\n", 0, len(text) - len(template.jinja))
        raise RecipeError(f"{key}: {path}:{line}: {error.message}.\nMend the template there.") from error
    return template
