"""`--set KEY=VALUE` with any key and value: nothing is run, and what is accepted can be written down and read again."""

import ast
import builtins

import pytest
from hypothesis import example
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz.profiles import fuzz, outcome, run_command
from tests.fuzz.strategies import texts
from vlmtool.recipe.load import known_keys, load_recipe, parse_recipe, plain, read_sections, recipe_text, recipe_values
from vlmtool.recipe.override import parse_value
from vlmtool.utils.errors import UsageError

NAME = "llava_vicuna_7b_v15_finetune"
SECTIONS = known_keys([])
KNOWN = [f"{section}.{key}" for section in SECTIONS for key in known_keys([section])]
SPECIAL = (
    "__class__", "__dict__", "__init__", "_delete_", "_base_", "_scope_", "type", "class", "lambda", "None", "self",
    "items",
    "model_config", "model_extra", "copy", "ﬁ", "ª", "漢", "lora", "r", "sample_prompts", "mmengine", "a",
)  # fmt: skip
# Whatever runs one of these has evaluated a value.
CALLS = (
    "canary()", "__import__('builtins').canary()", "[canary() for _ in (1,)]", "(lambda: canary())()", "f'{canary()}'",
    "{**canary()}", "[*canary()]", "dict(a=canary())", "dict(**canary())", "dict(canary())", "set(canary())",
    "(x := canary())",
    "().__class__.__base__.__subclasses__()", "canary", "print", "exec('canary()')", "1 if canary() else 2", "a.b",
    "a[0]",
)  # fmt: skip
NUMBERS = (
    "9**9**9", "1<<9999999999", "1e999", "-1e999", "1e999j", "1+2j", "0x" + "f" * 5000, "1" * 5000, "1_000", "0b1",
    "-1", "1e-4",
    "2.5", "07", "...", "--1", "not 1", "1 if 2else 3", "'a' * 10**10",
)  # fmt: skip
BRACKETS = tuple(
    left * depth + right * depth for left, right in ("[]", "()", "{}", "-1") for depth in (150, 199, 9000)
) + tuple("dict(a=" * depth + "1" + ")" * depth for depth in (150, 199, 9000))

identifiers = st.sampled_from(SPECIAL) | st.from_regex(r"[^\W\d]\w{0,4}", fullmatch=True)
keys = st.one_of(
    st.sampled_from(KNOWN), st.builds("{}.{}".format, st.sampled_from(KNOWN), identifiers),
    st.lists(identifiers, min_size=1, max_size=3).map(lambda names: ".".join(["mmengine", *names])),
    st.builds("projector.{}".format, identifiers), st.lists(identifiers, min_size=1, max_size=4).map(".".join), texts,
    st.integers(19, 3000).map(lambda depth: "mmengine" + ".a" * depth),
)  # fmt: skip


def _containers(inner: SearchStrategy[str]) -> SearchStrategy[str]:
    items = st.lists(inner, max_size=3)
    pairs = st.lists(st.tuples(inner, inner), max_size=3)
    return st.one_of(
        items.map(lambda values: f"[{', '.join(values)}]"),
        items.map(lambda values: f"({', '.join(values)})"),
        items.map(lambda values: f"{{{', '.join(values)}}}"),
        pairs.map(lambda values: f"{{{', '.join(f'{key}: {value}' for key, value in values)}}}"),
        st.lists(st.tuples(identifiers, inner), max_size=3).map(
            lambda values: f"dict({', '.join(f'{key}={value}' for key, value in values)})"
        ),
    )


_atoms = st.one_of(
    texts.map(repr), st.sampled_from(NUMBERS), st.sampled_from(CALLS), st.integers().map(str), st.floats().map(repr),
    st.sampled_from(["True", "None", "'auto'", "'nf4'", "b'x'", "'\\ud800'", "'\\d'", "u'x'", "'a' 'b'"]), texts,
)  # fmt: skip
values = st.recursive(_atoms, _containers, max_leaves=6) | st.sampled_from(BRACKETS)


@pytest.fixture(autouse=True)
def canary(monkeypatch):
    def sing() -> None:
        raise AssertionError("a value was evaluated")

    monkeypatch.setattr(builtins, "canary", sing, raising=False)


@example(text="{{}: 1}")
@example(text="dict(a=1, **{'b': 2})")
@fuzz(40, text=values)
def test_a_value_is_a_literal_or_the_text_itself(text):
    value = parse_value(text)
    try:
        literal = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        if value != text:
            assert "dict(" in text or "[" in text  # lists become tuples, which may be keys
        return
    if value != text:
        assert value == plain(literal)


@example(overrides=[("mmengine.class", "1"), ("mmengine.ﬁ", "{True: 1}")])
@example(overrides=[("schedule.lr", "1e999")])
@example(overrides=[("mmengine.a", "(1e999, ...)")])
@example(overrides=[("schedule.max_steps", "0x" + "f" * 5000)])
@example(overrides=[("mmengine" + ".a" * 900, "1")])
@example(overrides=[("mmengine.a.b", "[" * 199 + "]" * 199)])
@fuzz(40, overrides=st.lists(st.tuples(keys, values), min_size=1, max_size=2))
def test_an_accepted_recipe_is_read_again_as_it_was(folder, overrides):
    recipe = outcome(lambda: load_recipe(NAME, [f"{key}={value}" for key, value in overrides]))
    if isinstance(recipe, UsageError):
        return
    file = folder / "written.py"
    file.write_text(recipe_text(recipe, "Written down."), encoding="utf-8")
    again = parse_recipe(read_sections(file), str(file))
    assert repr(recipe_values(again)) == repr(recipe_values(recipe))


@fuzz(10, override=st.builds("{}={}".format, keys, values) | texts)
def test_the_command_shows_it_or_says_what_is_wrong(override):
    code, printed, said = run_command("config", "show", NAME, "--set", override)
    assert bool(printed) == (code == 0) and bool(said) == (code == 2)
