# `vlmtool data fetch llava_instruct`.
data = dict(
    sets=[
        dict(path="data/llava_data/LLaVA-Instruct-150K/detail_23k.json"),
        dict(path="data/llava_data/LLaVA-Instruct-150K/complex_reasoning_77k.json"),
    ],
    image_folder="data/llava_data/llava_images/coco/train2017",
    max_length=2048,
)
