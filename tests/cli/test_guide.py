"""XTuner's LLaVA guide, its commands typed with `vlmtool`, in a folder with small parts under the names it uses."""

import base64
import csv
import os
import shlex
import shutil
import subprocess
import sys

import pytest
from openpyxl import load_workbook

from tests.engine.command import ROOT
from tests.part_library import PartLibrary
from tests.standins import make_llava_data

PRETRAIN = "llava_internlm_chat_7b_clip_vit_large_p14_336_e1_gpu8_pretrain"
FINETUNE = "llava_internlm_chat_7b_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune"
CHAT = "--visual-encoder {clip} --llava ./epoch_1_hf --prompt-template internlm_chat --image $IMAGE --question 'What?'"
# Two processes where the guide has eight.
GUIDE = f"""
NPROC_PER_NODE=2 vlmtool train {PRETRAIN} --deepspeed deepspeed_zero2
NPROC_PER_NODE=2 vlmtool train {FINETUNE} --deepspeed deepspeed_zero2
vlmtool convert pth_to_hf {FINETUNE} ./work_dirs/{FINETUNE}/epoch_1.pth ./epoch_1_hf
vlmtool convert merge internlm/internlm-chat-7b ./epoch_1_hf/llm_adapter ./llm_merged
vlmtool convert merge openai/clip-vit-large-patch14-336 ./epoch_1_hf/visual_encoder_adapter ./clip_merged --is-clip
vlmtool chat internlm/internlm-chat-7b {CHAT.format(clip="openai/clip-vit-large-patch14")} --max-new-tokens 4
vlmtool chat ./llm_merged {CHAT.format(clip="./clip_merged")} --max-new-tokens 4
NPROC_PER_NODE=2 vlmtool mmbench internlm/internlm-chat-7b --visual-encoder openai/clip-vit-large-patch14 \
 --llava ./epoch_1_hf --prompt-template internlm_chat --data-path $MMBENCH --work-dir ./result
"""


@pytest.fixture
def place(tmp_path):
    """Parts by their hub ids, data where the recipes look for it, a picture and a small MMBench file."""
    parts = PartLibrary(tmp_path)
    parts.llm("internlm/internlm-chat-7b")
    for name in ("openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14-336"):
        parts.vision_encoder(name)
    for folder, file, images in (
        ("LLaVA-Pretrain", "LLaVA-Pretrain/blip_laion_cc_sbu_558k.json", "LLaVA-Pretrain/images"),
        ("mix", "LLaVA-Instruct-150K/llava_v1_5_mix665k.json", "llava_images"),
    ):
        root = tmp_path / "data" / "llava_data"
        records = make_llava_data(tmp_path / folder, seed=len(folder), n=64)
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(records, root / file)
        shutil.move(tmp_path / folder / "images", root / images)
    picture = root / "llava_images" / "000_0.jpg"
    shutil.copy(picture, tmp_path / "photo.jpg")
    encoded = base64.b64encode(picture.read_bytes()).decode()
    with open(tmp_path / "MMBench_DEV_EN.tsv", "w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        names = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "split", "image"]
        table.writerow(names)
        for index in range(4):
            table.writerow([index, "Which?", "", "one", "two", "", "", "AB"[index % 2], "c", "l2", "dev", encoded])
    return tmp_path


@pytest.mark.soak
def test_the_guides_commands_run_from_training_to_the_result(place):
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "IMAGE": "photo.jpg",
        "MMBENCH": "MMBench_DEV_EN.tsv", "PORT": "29660",
    }  # fmt: skip
    for line in GUIDE.replace("\\\n", "").strip().splitlines():
        before, _, words = line.partition("vlmtool ")
        command = f"{before}{shlex.quote(sys.executable)} -m vlmtool {words}"
        done = subprocess.run(
            ["sh", "-c", command], cwd=place, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        if words.startswith("chat"):
            assert done.stdout.strip(), line
    rows = list(load_workbook(place / "result" / "mmbench_result.xlsx").active.values)
    assert len(rows) == 1 + 4 and {"index", "prediction", "split"} <= set(rows[0])
