"""What is built is what stands in the tree."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def constant(name: str):
    """The value of a literal of setup.py."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"setup.py has no {name}")


def test_every_data_file_is_packaged():
    patterns = constant("PACKAGE_DATA")
    files = [f for f in (ROOT / "vlmtool").rglob("*") if f.is_file() and f.suffix not in {".py", ".pyc"}]
    assert files
    missing = [str(f.relative_to(ROOT)) for f in files if not any(f.match(pattern) for pattern in patterns)]
    assert not missing, "add the file's suffix to PACKAGE_DATA"


def test_every_requirement_is_pinned():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[0] == "torch==2.13.0"
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    wanted = {re.split(r"[<>=]", need)[0].lower().replace("_", "-") for need in constant("REQUIRES")}
    assert wanted <= pinned
