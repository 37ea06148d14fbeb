"""The demo: the real commands one after another, then what a sceptic asks for, as a table and a page."""

import os
import time
from pathlib import Path

import torch
from rich.table import Table

from vlmtool.demo.commands import demo_steps, run_step
from vlmtool.demo.data import data_paths
from vlmtool.demo.page import write_demo_page
from vlmtool.demo.proof import Proof, prove
from vlmtool.models.checkpoint import LAST_CHECKPOINT, last_checkpoint
from vlmtool.utils.errors import UsageError, VlmtoolError
from vlmtool.utils.files import write_json
from vlmtool.utils.terminal import err, out

BLIND_MARGIN = 0.05  # what a blind guess may be exceeded by


def run_demo(work_dir: Path, seed: int) -> None:
    """Run everything; results stand in `work_dir`.

    Raises:
        VlmtoolError: a command failed, or the model did not learn what it should have.
    """
    _check_folder(work_dir)
    console = err()
    start = time.monotonic()
    seconds = {}
    for step in demo_steps(work_dir, seed):
        seconds[step.title] = run_step(step)
    console.print("\nWhat a sceptic asks for", style="bold")
    begin = time.monotonic()
    torch.set_num_threads(os.cpu_count() or 1)
    proof = prove(work_dir, data_paths(work_dir / "data"))
    seconds["What a sceptic asks for"] = time.monotonic() - begin
    total = time.monotonic() - start
    page = write_demo_page(work_dir, proof, seconds)
    write_json(work_dir / "proof.json", proof.as_values() | {"seconds": seconds, "total_seconds": total, "seed": seed})
    _tell(proof, total, page)
    _check(proof)


def _check_folder(work_dir: Path) -> None:
    newest = last_checkpoint(work_dir / "finetune") or last_checkpoint(work_dir / "pretrain")
    if newest is not None:
        raise UsageError(
            f"--work-dir: '{work_dir}' holds a demo already ({newest.parent.name}/{LAST_CHECKPOINT}).\n"
            "Give another folder, or delete it first."
        )


def _tell(proof: Proof, total: float, page: Path) -> None:
    console = out()
    table = Table(title="Right answers, percent", title_justify="left")
    table.add_column("")
    for column in ("CircularEval", "vanilla"):
        table.add_column(column, justify="right")
    for row in proof.rows:
        circular = f"{100 * row.circular:.1f}" if row.circular is not None else "–"
        table.add_row(row.name, circular, f"{100 * row.vanilla:.1f}")
    console.print(table)
    console.print(
        f"{proof.num_questions} questions on pictures whose object, colour and place never met in training.\n"
        f"Minimal pairs: one thing changed in the picture, and the answer flips, in {100 * proof.pairs:.1f} % of "
        f"{proof.num_pairs} pairs.\n"
        f"{total:.0f} seconds in all. The page with curves and pictures: {page}\n"
    )
    console.print(
        "To train on your own pictures: vlmtool config copy demo_pretrain my_recipe.py — and change three lines:\n"
        "    data.path         your records (docs/data.md shows the form)\n"
        "    data.image_folder where their pictures lie\n"
        "    llm.path          a language model of your choice\n"
        "Then vlmtool train my_recipe.py. docs/first_model.md tells of the second stage.\n"
        "What this does not show: photographs, free conversation, languages, reading text, or anything beyond\n"
        "these scenes. The parts are tiny and were trained for this. Real recipes: vlmtool config list -p llava",
    )


def _check(proof: Proof) -> None:
    blind = proof.row("blind guess").vanilla + BLIND_MARGIN
    failed = [row.name for row in proof.rows if row.must_be_blind and max(row.circular or 0.0, row.vanilla) > blind]
    if failed:
        raise VlmtoolError(f"The demo's model knows more than it can see: {', '.join(failed)} exceed a blind guess.")
    best = proof.row("after finetune").circular
    if best is not None and best <= 0.9:
        raise VlmtoolError(f"The demo's model reached {100 * best:.1f} % CircularEval; it should exceed 90 %.")
