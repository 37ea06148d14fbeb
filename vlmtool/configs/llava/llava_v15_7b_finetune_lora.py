"""LLaVA-1.5 Vicuna-7B, finetune: LoRA on the LLM, 665k mixture. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_mix665k import data
    from .._base_.llms.vicuna_7b_v1_5 import llm
    from .._base_.projectors.mlp2x_gelu import projector
    from .._base_.schedules.finetune_1epoch import schedule
    from .._base_.vision_encoders.clip_vit_l14_336 import vision_encoder

init_from = "work_dirs/llava_v15_7b_pretrain"  # its last checkpoint
planned = dict(gpus=8)
runtime = dict(activation_checkpointing=True)
llm.update(lora=dict(r=128, alpha=256, dropout=0.05))
vision_encoder.update(freeze=True)
