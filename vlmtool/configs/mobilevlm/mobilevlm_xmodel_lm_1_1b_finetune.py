"""MobileVLM's LDP on Xmodel_LM-1.1B, finetune: the whole LLM, 665k mixture. 8 GPUs, batch 128."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_mix665k import data
    from .._base_.llms.xmodel_lm_1_1b import llm
    from .._base_.schedules.finetune_full_1epoch import schedule
    from .mobilevlm_xmodel_lm_1_1b_pretrain import planned, projector, runtime, vision_encoder

init_from = "work_dirs/mobilevlm_xmodel_lm_1_1b_pretrain"  # its last checkpoint
llm.update(freeze=False)
