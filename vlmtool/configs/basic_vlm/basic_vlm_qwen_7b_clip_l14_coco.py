"""Basic-VLM Qwen-7B with CLIP: LoRA and projector in one stage, LLaVA's COCO dialogues. 1 GPU, batch 4."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.coco_detail_complex import data
    from .basic_vlm_qwen_7b_clip_l14_ai_challenger import llm, planned, projector, schedule, vision_encoder
