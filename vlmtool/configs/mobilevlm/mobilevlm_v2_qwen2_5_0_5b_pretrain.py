"""MobileVLM V2's LDPv2 on Qwen2.5-0.5B, pretrain: LLM and projector, ShareGPT4V's 1.2M captions. 8 GPUs, batch 256."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.sharegpt4v_pretrain import data
    from .._base_.llms.qwen2_5_0_5b_instruct import llm
    from .._base_.projectors.ldpv2 import projector
    from .._base_.schedules.finetune_full_1epoch import schedule
    from .._base_.vision_encoders.clip_vit_l14_336 import vision_encoder

planned = dict(gpus=8)
runtime = dict(activation_checkpointing=True)
# The LLM learns here, so the finetuning has to keep its prompt and pictures; the original's captions are bare.
data.update(pad_to_square=True)
llm.update(freeze=False)
projector.update(lr=1e-3)
schedule.update(batch_size=32)
vision_encoder.update(freeze=True)
