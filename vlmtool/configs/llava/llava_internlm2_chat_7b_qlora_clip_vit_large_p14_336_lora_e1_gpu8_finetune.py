"""LLaVA InternLM2-chat-7B, finetune: QLoRA on the LLM, LoRA on the encoder, 665k mixture. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.llms.internlm2_chat_7b import llm
    from .._base_.vision_encoders.clip_vit_l14_336 import vision_encoder
    from .llava_v15_7b_finetune_lora import data, planned, projector, runtime, schedule

init_from = "work_dirs/llava_internlm2_chat_7b_clip_vit_large_p14_336_e1_gpu8_pretrain"  # its last checkpoint
llm.update(quantization="nf4", lora=dict(r=512, alpha=256, dropout=0.05))
vision_encoder.update(lora=dict(r=64, alpha=16, dropout=0.05))
