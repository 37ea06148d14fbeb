"""LLaVA-1.5 Vicuna-13B, finetune: the whole LLM, 665k mixture. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.llms.vicuna_13b_v1_5 import llm
    from .llava_v15_7b_finetune import data, planned, projector, runtime, schedule, vision_encoder

init_from = "work_dirs/llava_v15_13b_pretrain"  # its last checkpoint
llm.update(freeze=False)
