"""LLaVA Llama-3-8B, finetune: the whole LLM, 665k mixture. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.llms.llama3_8b_instruct import llm
    from .llava_v15_7b_finetune import data, planned, projector, runtime, schedule, vision_encoder

init_from = "work_dirs/llava_llama3_8b_instruct_clip_vit_large_p14_336_e1_gpu8_pretrain"  # its last checkpoint
llm.update(freeze=False)
schedule.update(batch_size=8, accumulation=2)
