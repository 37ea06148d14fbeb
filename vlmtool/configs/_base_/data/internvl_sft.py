# The nine files of OpenGVLab/InternVL's playground.zip: `vlmtool data convert llava` with the folder of each as
# --image-prefix (dvqa/, chartqa/, coco/, …), then all of them into one.
data = dict(
    path="data/internvl_sft/internvl_sft_1.3m.jsonl",
    image_folder="data/internvl_sft/data",
    max_length=4096,
    image_position="front",
    pad_to_square=True,
    sampler="length",
)
