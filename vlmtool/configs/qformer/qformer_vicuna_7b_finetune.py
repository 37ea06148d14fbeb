"""A Q-Former of 32 queries on Vicuna-7B, finetune: LoRA on the LLM, 665k mixture. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_mix665k import data
    from .._base_.llms.vicuna_7b_v1_5 import llm
    from .._base_.schedules.finetune_1epoch import schedule
    from .qformer_vicuna_7b_pretrain import planned, projector, runtime, vision_encoder

init_from = "work_dirs/qformer_vicuna_7b_pretrain"  # its last checkpoint
llm.update(lora=dict(r=128, alpha=256, dropout=0.05))
projector.update(lr=2e-5)
