"""LLaVA Llama-3-8B v1.1, finetune: the whole LLM, LoRA on the encoder, InternVL's 1.3M records. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.internvl_sft import data
    from .._base_.vision_encoders.clip_vit_l14_336 import vision_encoder
    from .llava_llama3_8b_instruct_full_clip_vit_large_p14_336_e1_gpu8_finetune import (
        llm,
        planned,
        projector,
        runtime,
        schedule,
    )

init_from = "work_dirs/llava_llama3_8b_instruct_clip_vit_large_p14_336_e1_gpu8_sharegpt4v_pretrain"
schedule.update(batch_size=4, accumulation=4)
vision_encoder.update(lora=dict(r=64, alpha=16, dropout=0.05))
