"""LLaVA Llama-3-8B, pretrain: the projector alone on LCS-558K, LLM in NF4. 1 GPU, batch 256."""

from mmengine.config import read_base

with read_base():
    from .._base_.llms.llama3_8b_instruct import llm
    from .llava_v15_7b_pretrain import data, planned, projector, runtime, schedule, vision_encoder

llm.update(quantization="nf4", freeze=True)
planned.update(gpus=1, memory_gb=20)
schedule.update(batch_size=1, accumulation=256)
