# `vlmtool data fetch llava_instruct`; detail_23k and complex_reasoning_77k merged by `vlmtool data convert llava`.
data = dict(
    path="data/coco/llava_detail_23k_complex_77k.json",
    image_folder="data/llava_data/llava_images/coco/train2017",
    max_length=2048,
)
