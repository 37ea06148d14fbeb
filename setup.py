"""Packaging of vlmtool. Ranges here are wide; the versions that are tested together stand in requirements.txt."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "vlmtool" / "version.py").read_text(encoding="utf-8")).group(1)
README = HERE / "README.md"

REQUIRES = [
    "torch>=2.6",
    "transformers>=5.17,<6",
    "peft>=0.18",
    "bitsandbytes>=0.48",
    "deepspeed>=0.17",
    "mmengine==0.10.*",
    "setuptools<81",  # mmengine 0.10 imports pkg_resources
    "typer>=0.20",
    "rich>=13",
    "openpyxl>=3.1",
    "accelerate>=1.1",
    "huggingface_hub>=1.0",
    "jinja2>=3.1",
    "numpy>=1.26",
    "pandas>=2.2",
    "pillow>=10",
    "protobuf>=4.21",  # reads SentencePiece model files
    "psutil>=5.9",
    "pyarrow>=15",
    "pydantic>=2.7",
    "safetensors>=0.4.3",
    "sentencepiece>=0.2",
    "tensorboard>=2.16",
]
EXTRAS = {
    "dev": ["hypothesis>=6.100", "mypy>=1.13", "pytest>=8", "pytest-xdist>=3.6", "ruff>=0.8", "tiktoken>=0.8", "wheel"],
    "liger": ["liger-kernel>=0.5"],
    "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5"],
}
# Every kind of file that stands beside the code: recipes are .py, the rest is data that the code opens.
PACKAGE_DATA = [
    "*.css", "*.csv", "*.html", "*.jinja", "*.jpg", "*.js", "*.json", "*.jsonl", "*.md", "*.model", "*.npz", "*.png",
    "*.safetensors", "*.tsv", "*.txt", "*.xlsx", "py.typed",
]  # fmt: skip

setup(
    name="vlmtool",
    version=VERSION,
    description="Compose, train, convert, talk to and evaluate vision-language models",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_namespace_packages(include=["vlmtool", "vlmtool.*"]),
    package_data={"": PACKAGE_DATA},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["vlmtool = vlmtool.cli.main:run"],
        "lmms_eval.models": ["vlmtool = vlmtool.integrations.lmms_eval:manifest"],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
