# train_boxes.json: XTuner's RefCOCOJson/train.json by `vlmtool data convert refcoco`, which keeps the names of the
# pictures alone. XTuner draws 70,000 of it at random, which are a fifth.
data = dict(
    sets=[
        dict(path="data/llava_data/LLaVA-Instruct-150K/llava_v1_5_mix665k.json"),
        dict(
            path="data/llava_data/RefCOCOJson/train_boxes.json",
            image_folder="data/llava_data/llava_images/coco/train2017",
            weight=0.22,
        ),
    ],
    image_folder="data/llava_data/llava_images",
    max_length=2048,
    image_position="front",
    pad_to_square=True,
    sampler="length",
)
