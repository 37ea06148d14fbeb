"""Basic-VLM Qwen-7B with CLIP: LoRA and projector in one stage, AI Challenger's Chinese captions. 1 GPU, batch 4."""

from mmengine.config import read_base

with read_base():
    from .._base_.vision_encoders.clip_vit_l14 import vision_encoder
    from .basic_vlm_qwen_7b_siglip_so400m_ai_challenger import data, llm, planned, projector, schedule

vision_encoder.update(freeze=True, select_layer=-1)
