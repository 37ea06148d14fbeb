"""LLaVA Llama-3-8B, finetune: QLoRA on the LLM, 665k mixture. 1 GPU, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.llms.llama3_8b_instruct import llm
    from .llava_v15_7b_finetune_lora import data, planned, projector, runtime, schedule, vision_encoder

init_from = "work_dirs/llava_llama3_8b_instruct_quant_clip_vit_large_p14_336_e1_gpu1_pretrain"  # its last checkpoint
llm.update(quantization="nf4", lora=dict(r=64, alpha=16, dropout=0.05))
planned.update(gpus=1, memory_gb=20)
schedule.update(batch_size=1, accumulation=128)
