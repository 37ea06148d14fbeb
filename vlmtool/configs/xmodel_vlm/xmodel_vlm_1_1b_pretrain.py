"""Xmodel-VLM 1.1B, pretrain: the XDP projector alone on LCS-558K. 4 GPUs, batch 64."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_lcs_558k import data
    from .._base_.llms.xmodel_lm_1_1b import llm
    from .._base_.projectors.xdp import projector
    from .._base_.schedules.pretrain_1epoch import schedule
    from .._base_.vision_encoders.clip_vit_l14_336 import vision_encoder

planned = dict(gpus=4)
runtime = dict(activation_checkpointing=True)
llm.update(template="plain", freeze=True)
schedule.update(batch_size=16)
vision_encoder.update(freeze=True)
