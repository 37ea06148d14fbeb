"""A Q-Former of 32 queries, from random weights, on Vicuna-7B, pretrain: it alone on LCS-558K. 8 GPUs, batch 256."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_lcs_558k import data
    from .._base_.llms.vicuna_7b_v1_5 import llm
    from .._base_.projectors.qformer_32 import projector
    from .._base_.schedules.pretrain_1epoch import schedule
    from .._base_.vision_encoders.clip_vit_l14 import vision_encoder

planned = dict(gpus=8)
runtime = dict(activation_checkpointing=True)
llm.update(template="plain", freeze=True)
schedule.update(lr=1e-4, betas=(0.9, 0.98), weight_decay=0.05)  # BLIP-2 (arXiv 2301.12597)
vision_encoder.update(freeze=True, select_strategy="full")  # its queries read CLS, too
