"""LLaVA Llama-3-8B v1.1, pretrain: the projector alone on ShareGPT4V's 1.2M captions. 8 GPUs, batch 256."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.sharegpt4v_pretrain import data
    from .llava_llama3_8b_instruct_clip_vit_large_p14_336_e1_gpu8_pretrain import (
        llm,
        planned,
        projector,
        runtime,
        schedule,
        vision_encoder,
    )

schedule.update(batch_size=16, accumulation=2)
