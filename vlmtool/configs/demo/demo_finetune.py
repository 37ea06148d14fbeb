"""The demo's second stage: QLoRA on the LLM in NF4, on questions and captions. Tiny parts, two minutes on two cores."""

from mmengine.config import read_base

with read_base():
    from .demo_pretrain import data, llm, planned, projector, schedule, vision_encoder

init_from = "work_dirs/demo/pretrain"  # its last checkpoint
llm.update(freeze=None, quantization="nf4", lora=dict(r=16, alpha=32))
data.update(
    path="work_dirs/demo/data/finetune.json",
    val_path="work_dirs/demo/data/val.json",
    sample_prompts=[dict(image="val_00000.jpg", question="What is the object?")],
)
projector.update(lr=6e-3)
schedule.update(lr=1.5e-3, max_steps=780)
