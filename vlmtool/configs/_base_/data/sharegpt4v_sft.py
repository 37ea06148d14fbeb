# `vlmtool data fetch sharegpt4v`, as for the pretraining beside it.
data = dict(
    path="data/llava_data/ShareGPT4V/sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json",
    image_folder="data/llava_data/llava_images",
    max_length=4096,
    image_position="front",
    pad_to_square=True,
    sampler="length",
)
