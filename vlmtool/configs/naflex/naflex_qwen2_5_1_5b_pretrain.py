"""Qwen2.5-1.5B with SigLIP 2 NaFlex, pretrain: pictures in their shapes, 256 patches, LCS-558K. 8 GPUs, batch 256."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_lcs_558k import data
    from .._base_.llms.qwen2_5_1_5b_instruct import llm
    from .._base_.projectors.mlp2x_gelu import projector
    from .._base_.schedules.pretrain_1epoch import schedule
    from .._base_.vision_encoders.siglip2_so400m_p16_naflex import vision_encoder

planned = dict(gpus=8)
runtime = dict(activation_checkpointing=True)
llm.update(freeze=True)
vision_encoder.update(freeze=True, max_patches=256)
