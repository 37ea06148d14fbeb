"""Prismatic Vicuna-7B with SigLIP and DINOv2, pretrain: the projector alone on LCS-558K. 8 GPUs, batch 256."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_lcs_558k import data
    from .._base_.llms.vicuna_7b_v1_5 import llm
    from .._base_.projectors.mlp2x_gelu import projector
    from .._base_.schedules.pretrain_1epoch import schedule
    from .._base_.vision_encoders.siglip_so400m_dinov2_large import vision_encoder

planned = dict(gpus=8)
runtime = dict(activation_checkpointing=True)
llm.update(freeze=True)
vision_encoder.update(freeze=True)
