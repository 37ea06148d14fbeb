# XTuner's RefCOCOJson/train.json by `vlmtool data convert refcoco … --image-prefix coco/train2017/`, then merged with
# llava_v1_5_mix665k.json by `vlmtool data convert llava`.
data = dict(
    path="data/llava_data/llava_mix665k_refcoco.json",
    image_folder="data/llava_data/llava_images",
    max_length=2048,
    image_position="front",
    pad_to_square=True,
    sampler="length",
)
