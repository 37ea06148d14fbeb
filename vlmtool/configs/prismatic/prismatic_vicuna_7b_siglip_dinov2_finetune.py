"""Prismatic Vicuna-7B with SigLIP and DINOv2, finetune: the whole LLM, 665k mixture. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_mix665k import data
    from .._base_.llms.vicuna_7b_v1_5 import llm
    from .._base_.projectors.mlp2x_gelu import projector
    from .._base_.schedules.finetune_full_1epoch import schedule
    from .._base_.vision_encoders.siglip_so400m_dinov2_large import vision_encoder

init_from = "work_dirs/prismatic_vicuna_7b_siglip_dinov2_pretrain"  # its last checkpoint
planned = dict(gpus=8)
runtime = dict(activation_checkpointing=True)
data.update(pad_to_square=False)  # squeezed into a square, as in the paper's own models
llm.update(freeze=False)
schedule.update(weight_decay=0.1)
vision_encoder.update(freeze=True)
