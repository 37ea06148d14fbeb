# `vlmtool data fetch sharegpt4v`; its llava/llava_pretrain/images is a link to LLaVA-Pretrain/images.
data = dict(
    path="data/llava_data/ShareGPT4V/share-captioner_coco_lcs_sam_1246k_1107.json",
    image_folder="data/llava_data/llava_images",
    max_length=4096,
    image_position="front",
)
