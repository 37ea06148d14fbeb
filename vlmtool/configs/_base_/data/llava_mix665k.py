data = dict(
    path="data/llava_data/LLaVA-Instruct-150K/llava_v1_5_mix665k.json",
    image_folder="data/llava_data/llava_images",
    max_length=2048,
    image_position="front",
    pad_to_square=True,
    sampler="length",
)
