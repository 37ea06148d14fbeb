"""LLaVA Llama-3-70B, pretrain: the projector alone on LCS-558K, LLM in NF4. 8 GPUs, batch 256."""

from mmengine.config import read_base

with read_base():
    from .._base_.llms.llama3_70b_instruct import llm
    from .llava_v15_7b_pretrain import data, planned, projector, runtime, schedule, vision_encoder

llm.update(quantization="nf4", freeze=True)  # XTuner's file of this name loads the 8B
schedule.update(lr=5e-4)
