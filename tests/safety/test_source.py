"""The package's own code: what can run code from a file is called in known places only, and with the safe argument."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "vlmtool").rglob("*.py"))

# Calls that run, or can run, code from outside; where one is needed, it stands in ALLOWED with its reason.
RUNS = {
    "eval", "exec", "compile", "__import__", "importlib.import_module", "runpy.run_path", "runpy.run_module",
    "os.system", "os.popen", "os.execv", "os.execvp", "os.spawnl", "subprocess.run", "subprocess.Popen",
    "subprocess.call", "subprocess.check_call", "subprocess.check_output", "pty.spawn",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "dill.loads", "joblib.load", "marshal.load",
    "marshal.loads", "shelve.open", "cloudpickle.load", "pandas.read_pickle", "pd.read_pickle",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.hub.load",
    "torch.package.PackageImporter", "torch.serialization.add_safe_globals", "add_safe_globals",
    "PIL.Image.open",
}  # fmt: skip
ALLOWED = {
    "vlmtool/utils/imports.py": {"importlib.import_module"},  # a recipe's or folder's `type`: an installed class
    "vlmtool/evaluation/catalog.py": {"importlib.import_module"},  # its own folder of benchmarks
    "vlmtool/engine/trial.py": {"subprocess.run"},  # a few steps of the training that is asked about
    "vlmtool/demo/commands.py": {"subprocess.run"},  # the demo's own commands
    "vlmtool/pipeline/command.py": {"subprocess.Popen"},  # vlmtool's own commands: memory is free after each
    "vlmtool/demo/part_vision.py": {"PIL.Image.open"},  # the demo's own pictures, here and below
    "vlmtool/demo/probe.py": {"PIL.Image.open"},
    "vlmtool/data/picture_file.py": {"PIL.Image.open"},  # with a list of formats, and a limit of pixels
}
TRUSTING = {"from_pretrained", "from_config"}  # of transformers' Auto classes
AUTO = {"AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoImageProcessor", "AutoProcessor"}


def calls(file: Path) -> Iterator[tuple[int, str, ast.Call]]:
    """(line, dotted name, call) of every call whose function is a name; imports are followed to the full name."""
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            first, _, rest = ast.unparse(node.func).partition(".")
            yield node.lineno, ".".join(filter(None, [names.get(first, first), rest])), node


def argument(call: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def complaints(file: Path) -> list[str]:
    where = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name
    found = []
    for line, name, call in calls(file):
        if name in RUNS and name not in ALLOWED.get(where, ()):
            found.append(f"{where}:{line} calls {name}")
        if name == "torch.load" and ast.unparse(argument(call, "weights_only") or call) != "True":
            found.append(f"{where}:{line} calls torch.load without weights_only=True")
        if name == "numpy.load" and argument(call, "allow_pickle") is not None:
            found.append(f"{where}:{line} calls numpy.load with allow_pickle")
        if argument(call, "shell") is not None:
            found.append(f"{where}:{line} starts a shell")
        owner, _, method = name.rpartition(".")
        if owner.rpartition(".")[2] in AUTO and method in TRUSTING:
            # Without the argument transformers asks at the terminal; `**arguments` is for the reader to check.
            value = argument(call, "trust_remote_code")
            if value is None and not any(keyword.arg is None for keyword in call.keywords):
                found.append(f"{where}:{line} calls {name} without trust_remote_code")
            if isinstance(value, ast.Constant) and value.value is not False:
                found.append(f"{where}:{line} calls {name} with trust_remote_code={value.value}")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_nothing_runs_code_from_a_file(file):
    assert complaints(file) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import torch\ntorch.load(x)", "without weights_only=True"),
        ("from torch import load\nload(x, weights_only=False)", "without weights_only=True"),
        ("import torch as t\nt.load(x, weights_only=flag)", "without weights_only=True"),
        ("import numpy as np\nnp.load(x, allow_pickle=True)", "allow_pickle"),
        ("import pickle\npickle.loads(x)", "pickle.loads"),
        ("from pickle import load as read\nread(x)", "pickle.load"),
        ("import yaml\nyaml.load(x)", "yaml.load"),
        ("eval('1')", "eval"),
        ("from PIL import Image as PILImage\nPILImage.open(x)", "PIL.Image.open"),
        ("import subprocess as s\ns.run(x)", "subprocess.run"),
        ("f(x, shell=True)", "shell"),
        ("from transformers import AutoConfig\nAutoConfig.from_pretrained(x)", "without trust_remote_code"),
        ("from transformers import AutoModel\nAutoModel.from_pretrained(x, trust_remote_code=True)", "=True"),
    ],
)
def test_the_test_sees_what_it_looks_for(tmp_path, source, said):
    (tmp_path / "bad.py").write_text(source)
    assert [said in complaint for complaint in complaints(tmp_path / "bad.py")] == [True]


def test_what_is_allowed_is_still_there():
    for where, names in ALLOWED.items():
        assert names <= {name for _, name, _ in calls(ROOT / where)}, f"{where}: take it out of ALLOWED"
