"""LLaVA Qwen2.5-7B with SigLIP 2, pretrain: the projector alone on LCS-558K, LLM in NF4. 8 GPUs, batch 256."""

from mmengine.config import read_base

with read_base():
    from .._base_.llms.qwen2_5_7b_instruct import llm
    from .._base_.vision_encoders.siglip2_so400m_p14_384 import vision_encoder
    from .llava_v15_7b_pretrain import data, planned, projector, runtime, schedule

llm.update(quantization="nf4", freeze=True)
vision_encoder.update(freeze=True)
