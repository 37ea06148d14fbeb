"""InternVL-like Qwen2.5-0.5B, CLIP at 448, pretrain: pixel shuffle to 256 tokens, on LCS-558K. 8 GPUs, batch 256."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_lcs_558k import data
    from .._base_.llms.qwen2_5_0_5b_instruct import llm
    from .._base_.projectors.pixel_shuffle import projector
    from .._base_.schedules.pretrain_1epoch import schedule
    from .._base_.vision_encoders.clip_vit_l14_336 import vision_encoder

planned = dict(gpus=8)
runtime = dict(activation_checkpointing=True)
llm.update(freeze=True)
vision_encoder.update(freeze=True, image_size=448)
