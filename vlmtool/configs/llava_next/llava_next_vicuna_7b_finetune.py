"""LLaVA-NeXT Vicuna-7B, finetune: all weights, AnyRes tiles, 665k for the original's 760k. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_mix665k import data
    from .._base_.llms.vicuna_7b_v1_5 import llm
    from .._base_.projectors.mlp2x_gelu import projector
    from .._base_.schedules.finetune_1epoch import schedule
    from .._base_.vision_encoders.clip_vit_l14_336 import vision_encoder

init_from = "work_dirs/llava_next_vicuna_7b_pretrain"  # its last checkpoint
planned = dict(gpus=8)
runtime = dict(activation_checkpointing=True)
data.update(max_length=4096, pad_to_square=False)
llm.update(freeze=False)
schedule.update(lr=1e-5, batch_size=4, accumulation=4)
vision_encoder.update(freeze=False, lr=2e-6, tiles=((1, 2), (2, 1), (2, 2), (1, 3), (3, 1)))
