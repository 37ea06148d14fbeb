"""LLaVA-NeXT Vicuna-7B, finetune: LoRA on the LLM, encoder frozen, AnyRes tiles, 665k mixture. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.llms.vicuna_7b_v1_5 import llm
    from .llava_next_vicuna_7b_finetune import data, init_from, planned, projector, runtime, schedule, vision_encoder

llm.update(lora=dict(r=128, alpha=256, dropout=0.05))
projector.update(lr=2e-5)
schedule.update(lr=2e-4)
vision_encoder.update(freeze=True, lr=None)
