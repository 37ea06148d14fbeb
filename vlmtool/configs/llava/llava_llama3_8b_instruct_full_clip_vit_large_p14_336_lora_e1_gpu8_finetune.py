"""LLaVA Llama-3-8B, finetune: the whole LLM, LoRA on the encoder, 665k mixture. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.vision_encoders.clip_vit_l14_336 import vision_encoder
    from .llava_llama3_8b_instruct_full_clip_vit_large_p14_336_e1_gpu8_finetune import (
        data,
        init_from,
        llm,
        planned,
        projector,
        runtime,
        schedule,
    )

vision_encoder.update(lora=dict(r=64, alpha=16, dropout=0.05))
