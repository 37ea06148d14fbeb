"""LLaVA Phi-3-mini-4k v1.1, finetune: all weights, twice over InternVL's 1.3M records. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.internvl_sft import data
    from .llava_phi3_mini_4k_instruct_full_clip_vit_large_p14_336_e1_gpu8_finetune import (
        llm,
        planned,
        projector,
        runtime,
        schedule,
        vision_encoder,
    )

init_from = "work_dirs/llava_phi3_mini_4k_instruct_clip_vit_large_p14_336_e1_gpu8_sharegpt4v_pretrain"
schedule.update(epochs=2.0)
vision_encoder.update(freeze=False)
