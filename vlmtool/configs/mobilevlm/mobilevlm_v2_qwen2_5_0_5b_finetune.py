"""MobileVLM V2's LDPv2 on Qwen2.5-0.5B, finetune: the whole LLM, 665k for the original's 2M. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_mix665k import data
    from .._base_.llms.qwen2_5_0_5b_instruct import llm
    from .._base_.projectors.ldpv2 import projector
    from .._base_.schedules.finetune_full_1epoch import schedule
    from .mobilevlm_v2_qwen2_5_0_5b_pretrain import planned, runtime, vision_encoder

init_from = "work_dirs/mobilevlm_v2_qwen2_5_0_5b_pretrain"  # its last checkpoint
llm.update(freeze=False)
schedule.update(lr=4e-5)
