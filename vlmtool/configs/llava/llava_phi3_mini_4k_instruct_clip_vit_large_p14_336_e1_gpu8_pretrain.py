"""LLaVA Phi-3-mini-4k, pretrain: the projector alone on LCS-558K. 8 GPUs, batch 256."""

from mmengine.config import read_base

with read_base():
    from .._base_.llms.phi3_mini_4k_instruct import llm
    from .llava_v15_7b_pretrain import data, planned, projector, runtime, schedule, vision_encoder

llm.update(freeze=True)
