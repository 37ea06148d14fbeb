"""LLaVA Qwen2.5-7B with SigLIP 2, finetune: QLoRA on the LLM, 665k mixture. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.llms.qwen2_5_7b_instruct import llm
    from .._base_.vision_encoders.siglip2_so400m_p14_384 import vision_encoder
    from .llava_v15_7b_finetune_lora import data, planned, projector, runtime, schedule

init_from = "work_dirs/llava_qwen2_5_7b_siglip2_so400m_pretrain"  # its last checkpoint
llm.update(quantization="nf4", lora=dict(r=128, alpha=256, dropout=0.05))
vision_encoder.update(freeze=True)
