"""InternVL-like Qwen2.5-0.5B, CLIP at 448, finetune: the whole LLM, ShareGPT4V's 665k. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.sharegpt4v_sft import data
    from .._base_.llms.qwen2_5_0_5b_instruct import llm
    from .._base_.schedules.finetune_full_1epoch import schedule
    from .internvl_qwen2_5_0_5b_pretrain import planned, projector, runtime, vision_encoder

init_from = "work_dirs/internvl_qwen2_5_0_5b_pretrain"  # its last checkpoint
llm.update(freeze=False)
schedule.update(lr=4e-5, weight_decay=0.01, batch_size=4, accumulation=4)
