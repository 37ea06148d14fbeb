"""LLaVA InternLM-chat-7B, pretrain: the projector alone on LCS-558K, LLM in NF4. 8 GPUs, batch 256."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_lcs_558k import data
    from .._base_.llms.internlm_chat_7b import llm
    from .._base_.projectors.mlp2x_gelu import projector
    from .._base_.schedules.pretrain_1epoch import schedule
    from .._base_.vision_encoders.clip_vit_l14_336 import vision_encoder

planned = dict(gpus=8)
runtime = dict(activation_checkpointing=True)
llm.update(quantization="nf4", freeze=True)
vision_encoder.update(freeze=True)
