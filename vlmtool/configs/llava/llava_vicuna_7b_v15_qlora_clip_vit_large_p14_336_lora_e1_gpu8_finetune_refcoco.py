"""LLaVA Vicuna-7B, finetune: the QLoRA recipe beside it, with RefCOCO's boxes in the data. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_refcoco import data
    from .llava_vicuna_7b_v15_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune import (
        init_from,
        llm,
        planned,
        projector,
        runtime,
        schedule,
        vision_encoder,
    )
