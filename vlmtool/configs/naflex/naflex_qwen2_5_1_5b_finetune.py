"""Qwen2.5-1.5B with SigLIP 2 NaFlex, finetune: the whole LLM, 1,024 patches, 665k mixture. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_mix665k import data
    from .._base_.llms.qwen2_5_1_5b_instruct import llm
    from .._base_.schedules.finetune_full_1epoch import schedule
    from .naflex_qwen2_5_1_5b_pretrain import planned, projector, runtime, vision_encoder

init_from = "work_dirs/naflex_qwen2_5_1_5b_pretrain"  # its last checkpoint
data.update(pad_to_square=False)
llm.update(freeze=False)
schedule.update(batch_size=8, accumulation=2)
vision_encoder.update(max_patches=1024)
